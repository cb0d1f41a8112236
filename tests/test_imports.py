"""What may be imported when. Guarded by what is in sys.modules, not by a clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from tests.conftest import labelled
from tests.models import save_checkpoint

HEAVY = {
    "altair",
    "duckdb",
    "dvc",
    "mlflow",
    "numpy",
    "prefect",
    "pyarrow",
    "pydantic",
    "scipy",
    "torch",
    "transformers",
}
RUN = """
import json, sys
from flows.cli import main

code = main(sys.argv[1:])
json.dump([code, sorted({name.partition(".")[0] for name in sys.modules})], sys.stderr)
"""


def _imported(*arguments: str | Path) -> set[str]:
    """The packages that a command line has imported when it has done its work."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(names)


@pytest.mark.parametrize(
    "verb", [[], ["audit"], ["example"], ["export"], ["generate"], ["neuron"], ["schema"], ["stage"]]
)
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    assert _imported(*verb, "--help") & HEAVY == set()


def test_the_schema_imports_no_model_library_and_no_prefect() -> None:
    assert _imported("schema") & HEAVY == {"pydantic"}


def test_an_audit_that_is_current_imports_no_model_library_and_no_prefect(tmp_path: Path) -> None:
    rows = labelled()
    lines = [",".join(row) for row in zip(rows.text, rows.concept, rows.split, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label,split", *lines]))
    params = tmp_path / "params.yaml"
    params.write_text(
        f"""
        checkpoint: {{path: {save_checkpoint(tmp_path / "gpt2", "gpt2")}}}
        dataset: {{path: {tmp_path / "data.csv"}}}
        fit: {{rows: all, saliency: mean_abs}}
        evaluate: {{bootstrap: 100}}
        """
    )
    assert main(["audit", "--params", str(params), "--out", str(tmp_path / "audit"), "--no-flow"]) == 0
    imported = _imported("audit", "--params", params, "--out", tmp_path / "audit", "--no-flow")
    assert imported & HEAVY == {"pydantic"}
    read = {"duckdb", "numpy", "pyarrow", "pydantic"}
    assert _imported("neuron", tmp_path / "audit", "resid_post.2:3") & HEAVY <= read


def test_the_library_is_imported_without_its_dependencies() -> None:
    names = subprocess.check_output(
        [sys.executable, "-c", "import json, sys, neuronlens; print(json.dumps(list(sys.modules)))"], text=True
    )
    assert HEAVY & set(json.loads(names)) == set()
