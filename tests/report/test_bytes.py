"""Equal inputs give equal bytes, whatever the process and the order in which it hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_REPORT = """
import sys
from pathlib import Path
from neuronlens.report.page import report
from tests.report.artifacts import config

inputs = {stage: Path(sys.argv[1]) / stage for stage in ("prepare", "extract", "fit", "evaluate")}
report(config(), inputs, Path(sys.argv[2]))
"""


def test_two_processes_write_the_same_report(
    audit_inputs: dict[str, Path], report_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _REPORT, str(audit_inputs["fit"].parent), str(tmp_path)]
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # that of this process is drawn, unless it is told
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": other}, cwd=Path(__file__).parents[2], check=True)
    names = sorted(path.relative_to(report_folder) for path in report_folder.rglob("*") if path.is_file())
    assert Path("explorer.json") in names
    for name in names:
        assert (tmp_path / name).read_bytes() == (report_folder / name).read_bytes(), name
