"""What a checkpoint's folder holds, and a sparse autoencoder's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.autoencoder_file import load_autoencoder
from neuronlens.checkpoint import load_checkpoint
from neuronlens.incoming import what_lacks
from tests import autoencoders
from tests.fuzz.spoilt import spoilt_bytes, spoilt_json
from tests.fuzz.test_stored import as_json, other
from tests.fuzz.tried import Tried, often
from tests.models import save_checkpoint

FAMILIES = ("bert", "gpt2")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for family in FAMILIES:
        save_checkpoint(folder / family, family)
    return folder


def sized(value: Any) -> Any:
    """Numbers of layers, heads and neurons that a machine can hold: a model may be large, which is no mistake."""
    if isinstance(value, dict):
        return {key: sized(part) for key, part in value.items()}
    if isinstance(value, list):
        return [sized(part) for part in value]
    return value % 100 if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 200 else value


def opened(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    checkpoint.tokenizer("a b")
    checkpoint.model  # noqa: B018  # which reads the weights


@often(8, 300)
@given(data=st.data(), family=st.sampled_from(FAMILIES))
def test_configurations_of_any_values(tried: Tried, saved: Path, data: st.DataObject, family: str) -> None:
    file = saved / family / "config.json"
    with other(file, as_json(sized(data.draw(spoilt_json(json.loads(file.read_bytes())))))):
        tried.assert_read_or_refused(lambda: opened(saved / family), family)


@often(10, 300)
@given(data=st.data(), family=st.sampled_from(FAMILIES), header=st.booleans())
def test_weights_of_any_bytes(tried: Tried, saved: Path, data: st.DataObject, family: str, header: bool) -> None:
    file = saved / family / "model.safetensors"
    whole = file.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    content = data.draw(spoilt_bytes(whole[:length])) + whole[length:] if header else data.draw(spoilt_bytes(whole))
    with other(file, content):
        tried.assert_read_or_refused(lambda: [*what_lacks(saved / family)], again=True)
        tried.assert_read_or_refused(lambda: opened(saved / family), family)


@often(8, 250)
@given(
    data=st.data(), family=st.sampled_from(FAMILIES), name=st.sampled_from(["tokenizer.json", "tokenizer_config.json"])
)
def test_tokenizers_of_any_values(tried: Tried, saved: Path, data: st.DataObject, family: str, name: str) -> None:
    file = saved / family / name
    if data.draw(st.booleans()):
        content = as_json(sized(data.draw(spoilt_json(json.loads(file.read_bytes())))))
    else:
        content = data.draw(spoilt_bytes(file.read_bytes()))
    with other(file, content):
        tried.assert_read_or_refused(lambda: opened(saved / family), family)


@often(12, 500)
@given(data=st.data(), kind=st.sampled_from([*autoencoders.SAELENS, *autoencoders.SPARSIFY]), config=st.booleans())
def test_autoencoders_of_any_values(tried: Tried, tmp_path: Path, data: st.DataObject, kind: str, config: bool) -> None:
    folder = tmp_path / "sae"
    shutil.rmtree(folder, ignore_errors=True)
    autoencoders.write(folder, kind, hook_name="blocks.1.hook_resid_post")
    file = next(path for path in sorted(folder.iterdir()) if (path.name == "cfg.json") == config)
    whole = file.read_bytes()
    file.write_bytes(as_json(data.draw(spoilt_json(json.loads(whole)))) if config else data.draw(spoilt_bytes(whole)))
    tried.assert_read_or_refused(lambda: load_autoencoder(folder), "sae")
