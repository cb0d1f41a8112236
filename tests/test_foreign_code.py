"""Nothing that is read is run: code in a checkpoint, a data set, a configuration or an artifact would leave a mark, and none does."""

from __future__ import annotations

import ast
import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from flows.cli import main
from neuronlens.artifact import read_json, read_table
from neuronlens.autoencoder_file import load_autoencoder
from neuronlens.checkpoint import load_checkpoint
from neuronlens.dataset import freeze_hub_dataset, load_dataset
from neuronlens.errors import CheckpointError, DatasetError, NeuronLensError
from neuronlens.evaluation.planned import _read as read_scores
from neuronlens.interventions.lens import Lens
from tasks.catalogue import listed, trend
from tasks.lines import Line
from tests import autoencoders
from tests.conftest import ROOT, labelled
from tests.models import random_model, save_checkpoint, tokenizer
from tests.tasks.test_lines import decision


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that must not appear."""
    file = tmp_path / "mark" / "ran"
    file.parent.mkdir()
    yield file
    assert not file.exists(), "code was run"


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def script(mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"


def test_a_mark_would_be_seen(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Planted(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()
    exec(script(tmp_path / "too"))
    assert (tmp_path / "too").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "tokenizer.json", "config.json"])
def test_pickles_in_a_checkpoint_are_not_opened(mark: Path, tmp_path: Path, name: str) -> None:
    folder = save_checkpoint(tmp_path / "model", "bert")
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    torch.save({"weight": Planted(mark)}, folder / name)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder).tokenizer, load_checkpoint(folder).model


def test_pickles_beside_safe_weights_are_not_opened(mark: Path, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "bert")
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt"):
        torch.save({"weight": Planted(mark)}, folder / name)
    assert load_checkpoint(folder).model.training is False


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("place", ["code", "owner/name--code"])
def test_code_that_a_checkpoint_names_is_not_imported(mark: Path, tmp_path: Path, file: str, place: str) -> None:
    folder = save_checkpoint(tmp_path / "model", "bert")
    (folder / "code.py").write_text(script(mark))
    (folder / "__init__.py").write_text(script(mark))
    named = {"AutoConfig": "Config", "AutoModelForSequenceClassification": "Model", "AutoModel": "Model"}
    auto_map = {key: f"{place}.{name}" for key, name in named.items()} | {"AutoTokenizer": [f"{place}.Tokenizer"] * 2}
    told = json.loads((folder / file).read_text()) | {"auto_map": auto_map, "trust_remote_code": True}
    (folder / file).write_text(json.dumps(told))
    with contextlib.suppress(CheckpointError):
        load_checkpoint(folder).tokenizer, load_checkpoint(folder).model


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_that_a_checkpoint_names_are_refused(tmp_path: Path, key: str) -> None:
    folder = save_checkpoint(tmp_path / "model", "bert")
    told = json.loads((folder / "config.json").read_text()) | {key: "owner/kernels"}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="needs code of its own, which is never run"):
        load_checkpoint(folder)


def test_a_script_of_a_data_set_is_not_run(mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics/topics.py").write_text(script(mark))
    with pytest.raises(DatasetError):
        freeze_hub_dataset(str(tmp_path / "topics"), text="text", label="label", cache=tmp_path / "frozen")
    with pytest.raises(DatasetError):
        load_dataset(tmp_path / "topics/topics.py")


@pytest.mark.parametrize("name", ["data.csv", "data.parquet", "data.jsonl"])
def test_a_pickle_as_a_data_set_is_refused(mark: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(DatasetError):
        load_dataset(tmp_path / name)


TAGS = ["!!python/object/apply:pathlib.Path.touch", "!!python/object/new:subprocess.Popen", "!!python/name:os.system"]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("file", ["params.yaml", "audit.yaml", "dvc.yaml"])
def test_tags_of_yaml_make_no_objects(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], file: str, tag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / file).write_text(f"stages: {tag} [{mark}]\n")
    lines = {
        "params.yaml": ["plan"],
        "audit.yaml": ["stage", "prepare", "--out", "."],
        "dvc.yaml": ["plan", "--out", "audits/x", "--checkpoint", str(save_checkpoint(tmp_path / "m", "bert"))],
    }
    assert main(lines[file]) == 2
    assert f"{file}:1: is no YAML" in capfd.readouterr().err or file == "dvc.yaml"
    assert main(["plan", "--set", f"seed={tag} [{mark}]"]) == 2
    capfd.readouterr()


def test_pickles_in_artifacts_are_not_opened(mark: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", scores=np.array([Planted(mark)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_scores(tmp_path)["scores"]
    folder = tmp_path / "sae"
    autoencoders.write(folder, "standard")
    torch.save({"W_enc": Planted(mark)}, folder / "sae_weights.safetensors")
    torch.save({"W_enc": Planted(mark)}, tmp_path / "lens")
    (tmp_path / "table.parquet").write_bytes(pickle.dumps(Planted(mark)))
    for read, path in (
        (load_autoencoder, folder),
        (Lens.load, tmp_path / "lens"),
        (read_table, tmp_path / "table.parquet"),
    ):
        with pytest.raises(NeuronLensError):
            read(path)


NAMES = (
    "../../x",
    "'; DROP TABLE audits; --",
    "a\x00b",
    "x" * 300,
    "CON",
    "\u202eabc",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "$(touch ran)`touch ran`",
)


def test_names_of_concepts_are_names_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inside = tmp_path / "one" / "two"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    named = dict(enumerate(NAMES))
    random_model("bert", id2label=named, label2id={name: i for i, name in named.items()}).save_pretrained("model")
    tokenizer("bert").save_pretrained("model")
    pq.write_table(labelled(NAMES, fit=3).to_table(), "topics.parquet")
    before = {*tmp_path.rglob("*")}
    given = {
        "fit.rows": "all",
        "fit.saliency": "mean_abs",
        "interventions.tau": 2,
        "interventions.top": 0.3,
        "interventions.controls": [],
        "interventions.tuned": None,
        "evaluate.bootstrap": 100,
    }
    options = [word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    line = ["audit", "--no-flow", "--out", "audit", "--checkpoint", "model", "--dataset", "topics.parquet"]
    assert main([*line, "--label", "concept", *options]) == 0, capfd.readouterr().err
    made = {*tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(inside / "audit") for path in made)
    assert all(
        set(path.relative_to(inside).as_posix()) <= {*"abcdefghijklmnopqrstuvwxyz0123456789._=/-"} for path in made
    )
    assert [row["concept"] for row in read_json(inside / "audit/report/audit.json")["base"]["concepts"]] == sorted(
        NAMES
    )
    printed = "".join(capfd.readouterr())
    assert all(letter.isprintable() or letter == "\n" for letter in printed)
    for place, name in enumerate(NAMES):
        before = {*tmp_path.rglob("*")}
        method = next(iter(read_table(inside / "audit/evaluate/results.parquet")["method"].to_pylist()))
        assert main(["export", "audit", "--concept", name, "--method", method, "-o", f"{place}.lens"]) == 0
        assert {*tmp_path.rglob("*")} - before == {inside / f"{place}.lens"}
        assert Lens.load(inside / f"{place}.lens").concept == name
    capfd.readouterr()


def test_names_of_lines_and_audits_are_values_in_sql(tmp_path: Path) -> None:
    line = Line(tmp_path, "it's; drop table decisions; --", "x")
    line.add(decision("'; DROP TABLE audits; --"))
    rows = trend(tmp_path, [], line.name)
    assert [row["checkpoint"] for row in rows] == ["'; DROP TABLE audits; --"]
    assert trend(tmp_path, [], "' or '1'='1") == []
    assert listed(tmp_path, []) == []


_ASKING = {"execute", "executemany", "sql", "query", "from_query"}


def queries(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """Line and first argument of every call that a database is asked by."""
    for node in ast.walk(tree):
        asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ASKING
        if asks and node.args:
            yield node.lineno, node.args[0]


def is_fixed(argument: ast.expr, tree: ast.AST) -> bool:
    """Whether it is a text that stands in the source, or a name that is never bound to, or given, anything else."""
    if isinstance(argument, ast.Constant):
        return True
    if not isinstance(argument, ast.Name):
        return False
    bound = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(to, ast.Name) and to.id == argument.id for to in node.targets)
    ]
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = [each.arg for each in function.args.args]
        if argument.id in names:
            calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
            bound += [call.args[names.index(argument.id)] for call in calls if call.func.id == function.name]
    return bool(bound) and all(isinstance(value, ast.Constant) for value in bound)


def test_sql_is_fixed_text_with_parameters() -> None:
    found = 0
    for file in sorted(path for floor in ("neuronlens", "tasks", "flows") for path in (ROOT / floor).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, argument in queries(tree):
            assert is_fixed(argument, tree), f"{file}:{line}: a query that is put together"
            found += 1
    assert found >= 2, "the queries of the catalogue and of the heatmaps are looked at"


@pytest.mark.parametrize(
    "code",
    [
        "c.execute(f'select {x}')",
        "c.sql('select ' + x)",
        "q = f'{x}'\nc.execute(q)",
        "def f(q):\n    c.execute(q)\nf('a' + x)",
        "c.execute('select %s' % x)",
        "c.execute(make())",
    ],
)
def test_a_query_that_is_put_together_would_be_seen(code: str) -> None:
    tree = ast.parse(code)
    assert not all(is_fixed(argument, tree) for _, argument in queries(tree))
