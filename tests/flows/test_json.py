"""Every verb that tells something tells it to programs, too: JSON on stdout, and nothing else there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import services
from flows.cli import main
from flows.printing import print_json
from neuronlens.example import Example
from neuronlens.stages import STAGES, Outcome
from tasks.lines import Decision, Line
from tasks.versioning import Workspace

OUTCOME = {"stage", "outcome", "reason", "seconds"}
GATE = {"gate", "rule", "number", "value", "low", "high", "verdict", "waived", "note"}
DECISION = {"checkpoint", "order", "key", "outcome", "audit", "fingerprint", "before", "gates", "error", "at"}
COMPARISON = {"schema_version", "audits", "identical", "sites", "changes", "decided", "drift", "ranges", "rankings"}
LISTED = {"audit", "folder", "accuracy", "selectivity", "line", "passed", "failed", "gates_not_decided", "waived"}
CARD = {"audit", "site", "neuron", "module", "concepts", "top_sets", "overlaps", "examples", "effects", "masked"}
METHOD = "gaussian-2/mean_abs/0.3/zero/all"
TREND = {"line", "checkpoint", "order", "outcome", "audit", "before", "passed", "failed", "not_decided", "accuracy"}

VERBS: dict[str, tuple[str, set[str]]] = {
    "audit": ("audit --checkpoint gpt2 --no-flow", {"schema_version", "base", "summary", "results", "trust"}),
    "plan": ("plan --checkpoint gpt2 --out other", {"folder", "stages", "cost"}),
    "status": ("status", {"audit", "folder", "stages"}),
    "compare": ("compare AUDIT AUDIT", COMPARISON),
    "gate": ("gate AUDIT", GATE),
    "watch": ("watch run --once --no-flow", DECISION),
    "list": ("list", LISTED),
    "show": ("show AUDIT", {"schema_version", "base", "summary", "results", "trust"}),
    "neuron": ("neuron AUDIT resid_post.2:0 --mask", CARD),
    "export": ("export AUDIT --concept finance --method METHOD --out made.lens", {"file", "sites", "checkpoint"}),
    "generate": ("generate --edit LENS bank", {"prompt", "unedited", "edited", "changed", "looked_at"}),
    "trend": ("trend run", TREND),
    "report": ("report AUDIT", {"page", "verdict"}),
    "lineage": ("lineage AUDIT", {"name", "identity", "told", "holds"}),
    "push": ("push --remote ../remote", {"files"}),
    "pull": ("pull --remote ../remote", {"files"}),
    "stage": ("stage prepare --out mine --set checkpoint.path=gpt2", OUTCOME),
    "up": ("up", {"served"}),
    "down": ("down", set()),
    "schema": ("schema", {"properties", "$defs"}),
}


@pytest.fixture(scope="module")
def root(
    workspace_at: Callable[[Path], Workspace], originals: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A workspace as the current folder: data, params.yaml, a checkpoint, and a run whose first checkpoint has been audited."""
    root = workspace_at(tmp_path_factory.mktemp("here") / "ours").root
    shutil.copy(originals / "data.csv", root)
    shutil.copytree(originals / "gpt2", root / "gpt2")
    shutil.copytree(originals / "gpt2", root / "run" / "checkpoint-1")
    (root / "params.yaml").write_text(
        "dataset: {path: data.csv}\n"
        "extract: {sites: [resid_post.last]}\n"
        "fit: {rows: all, saliency: mean_abs}\n"
        "interventions: {tau: 2.0, top: [0.3]}\n"
        "evaluate: {bootstrap: 100}\n"
        "gates: {accuracy: base_accuracy drop <= 0.9, known: base_accuracy >= 0}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        serves = services._Kind(0, "/", lambda _, port: ["http.server", str(port), "--bind", services.HOST])
        patch.setattr(services, "_KINDS", {"served": serves})
        assert main(["watch", "run", "--once", "--no-flow", "--settled", "0"]) == 0
        yield root
        services.down(root)


@pytest.fixture
def audit(root: Path) -> str:
    """Its folder."""
    (decision,) = Line.of("run", root).decisions()[:1]
    return f"audits/{decision.audit}"


@pytest.fixture
def lens(audit: str) -> str:
    """A lens of it, whose checkpoint is found by it."""
    assert main(["export", audit, "--concept", "finance", "--method", METHOD, "--out", "given.lens"]) == 0
    return "given.lens"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_speaks_json(verb: str, root: Path, audit: str, lens: str, capfd: pytest.CaptureFixture[str]) -> None:
    line, keys = VERBS[verb]
    if verb == "watch":
        shutil.copytree(root / "gpt2", root / "run" / "checkpoint-2", dirs_exist_ok=True)
    words = [{"AUDIT": audit, "LENS": lens, "METHOD": METHOD}.get(word, word) for word in line.split()]
    extra = ["--settled", "0"] if verb == "watch" else []
    capfd.readouterr()
    code = main([*words, *extra, *([] if verb == "schema" else ["--json"])])
    out, err = capfd.readouterr()
    assert code == (4 if verb == "gate" else 0), err
    found = _strict(out)
    rows = found if isinstance(found, list) else [found]
    assert all(keys <= {*row} for row in rows if keys)
    assert rows or verb == "down"
    if verb in ("status", "plan"):
        assert [made["stage"] for made in rows[0]["stages"]] == [*STAGES]
        assert {*rows[0]["stages"][0]} == OUTCOME
    if verb == "up":
        assert {*found["served"]} == {"pid", "started", "port", "url"}
    if verb == "watch":
        assert [(row["checkpoint"], row["outcome"]) for row in rows] == [("checkpoint-2", "same")]


def test_the_example_speaks_json(example: Example, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "example"
    shutil.copytree(example.folder, folder)
    assert main(["example", "--out", str(folder), "--json"]) == 0
    assert _strict(capfd.readouterr().out) == {"folder": str(folder)}


def test_json_tells_of_one_look(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "run", "--json"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("neuronlens: --json: tells of one look. Add --once")


def test_it_is_strict_whatever_is_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "infinite": [float("inf"), float("nan"), 0.5],
            "path": Path("a"),
            "made": Outcome("fit", "computed", "\u2212 \U0001f600", 0.0),
            "many": (Decision("checkpoint-1", 1, "k", "error", gates=[{"low": float("-inf")}]),),
        }
    )
    found = _strict(capfd.readouterr().out)
    assert found["infinite"] == [None, None, 0.5]
    assert found["path"] == "a"
    assert found["made"]["reason"] == "\u2212 \U0001f600"
    assert found["many"][0]["gates"] == [{"low": None}]


def _strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)
