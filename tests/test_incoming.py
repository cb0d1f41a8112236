"""Checkpoints that come in: which are whole, which are being written, which will never be whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.errors import UserError
from neuronlens.incoming import in_folder, on_hub, truncated, what_lacks
from tests.conftest import Checkpoints
from tests.hub import REPOSITORY, hub, sha


@pytest.fixture
def run(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A run's folder with one whole checkpoint, written a while ago."""
    folder = tmp_path / "run"
    shutil.copytree(checkpoints("gpt2").path, folder / "checkpoint-20")
    _age(folder / "checkpoint-20", 1000.0)
    return folder


def _age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def _states(folder: Path, settled: float = 60.0) -> dict[str, str]:
    return {found.name: found.state for found in in_folder(folder, settled)}


def test_checkpoints_come_in_the_order_of_their_steps(run: Path) -> None:
    for step in (3, 100):
        shutil.copytree(run / "checkpoint-20", run / f"checkpoint-{step}")
        _age(run / f"checkpoint-{step}", 100.0)
    (run / "runs").mkdir()
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-7").write_text("a file")
    assert [found.order for found in in_folder(run)] == [3, 20, 100]
    assert {found.state for found in in_folder(run)} == {"whole"}


def test_what_is_cut_short_is_being_written_until_nothing_happens_any_more(run: Path) -> None:
    weights = run / "checkpoint-20" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert _states(run) == {"checkpoint-20": "being written"}
    _age(run / "checkpoint-20", 61.0)
    (broken,) = in_folder(run)
    assert broken.state == "broken"
    assert broken.problem == f"model.safetensors has {len(whole) // 2:,} bytes of {len(whole):,}"
    weights.write_bytes(whole)
    _age(run / "checkpoint-20", 5.0)
    assert _states(run) == {"checkpoint-20": "whole"}


def test_what_was_written_a_moment_ago_is_not_touched_yet(run: Path) -> None:
    (run / "checkpoint-20" / "trainer_state.json").write_text("{}")
    assert _states(run) == {"checkpoint-20": "being written"}


def test_shards_that_the_index_names_must_be_there(run: Path) -> None:
    folder = run / "checkpoint-20"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [*what_lacks(folder)] == ["model-00002-of-00002.safetensors is missing"]
    (folder / "model.safetensors.index.json").write_text("{")
    assert [*what_lacks(folder)] == ["model.safetensors.index.json cannot be read"]


def test_a_folder_without_weights_or_config_is_not_whole(run: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (run / "checkpoint-20" / name).unlink()
    assert [*what_lacks(run / "checkpoint-20")] == ["config.json is missing", "there are no safetensors weights"]


def test_an_adapter_is_no_whole_checkpoint(run: Path) -> None:
    folder = run / "checkpoint-20"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    assert [*what_lacks(folder)] == [
        "adapter_config.json is of an adapter",
        "adapter_model.safetensors is of an adapter",
    ]


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder\. Name the one that the training run writes"):
        in_folder(tmp_path / "nowhere")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_cut_of_a_file_is_noticed(
    checkpoints_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(checkpoints_file) - 1))
    file = tmp_path_factory.getbasetemp() / "cut.safetensors"
    file.write_bytes(checkpoints_file[:length])
    assert truncated(file) is not None
    file.write_bytes(checkpoints_file)
    assert truncated(file) is None


@pytest.fixture(scope="module")
def checkpoints_file(checkpoints: Checkpoints) -> bytes:
    """The weights of a tiny model."""
    return (checkpoints("gpt2").path / "model.safetensors").read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_no_header_breaks_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)
    assert truncated(file) is None or isinstance(truncated(file), str)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Where the hub's client looks."""
    from huggingface_hub import constants

    return lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)


def test_revisions_of_a_hub_repository_come_in_their_order(endpoint: Callable[[str], None], tmp_path: Path) -> None:
    with hub([tmp_path] * 3) as address:
        endpoint(address)
        found = on_hub(REPOSITORY)
    assert [(one.order, one.name, one.path, one.revision) for one in found] == [
        (number - 1, sha(number)[:8], REPOSITORY, sha(number)) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("how", ["no such repository", "no answer", "offline", "no name"])
def test_what_the_hub_does_not_give_is_one_line(
    how: str, endpoint: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    name = {"no such repository": "owner/other", "no name": "owner/na me"}.get(how, REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    with hub([tmp_path]) as address:
        endpoint("http://127.0.0.1:1" if how == "no answer" else address)
        with pytest.raises(
            UserError, match=rf"^{name}: is no folder here and cannot be had from the hub \(.+\)\. Check"
        ):
            on_hub(name)
