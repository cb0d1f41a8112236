"""Freeze small artifacts of today's schema versions: `python -m tests.golden.make`.

Each stands in a file that is named after its version: `audit-6-manifest-1.tar.xz`, `comparison-2.tar.xz`, `lens-1.safetensors`. Run it
after a version has been raised, and commit what appears; what is there already is never written again. Tests read every one of them
with today's code.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neuronlens import artifact, comparison
from neuronlens.artifact import write_table
from neuronlens.comparison.document import compare
from neuronlens.interventions.lens_file import FORMAT
from neuronlens.params import load_config
from neuronlens.report import finished
from neuronlens.report.exported import export_lens
from neuronlens.stages import STAGES, run_stage
from tests.conftest import labelled
from tests.models import CONCEPTS, save_checkpoint

FOLDER = Path(__file__).parent
AUDIT = FOLDER / f"audit-{finished.SCHEMA_VERSION}-manifest-{artifact.SCHEMA_VERSION}.tar.xz"
COMPARISON = FOLDER / f"comparison-{comparison.SCHEMA_VERSION}.tar.xz"
LENS = FOLDER / f"lens-{FORMAT}.safetensors"
# what is drawn from audit.json again whenever it is asked for, and is large
_DRAWN = {"report.html", "plots"}


def audit(folder: Path, name: str, seed: int) -> Path:
    """An audit of a random model of two concepts, at one site."""
    given = [f"checkpoint.path={save_checkpoint(folder / f'model-{name}', 'bert', seed)}"]
    given += [
        f"dataset.path={folder / 'topics.parquet'}",
        "dataset.label=concept",
        "fit.rows=all",
        "fit.saliency=mean_abs",
    ]
    given += ["extract.sites=resid_post.1", "interventions.tau=2", "interventions.top=0.2", "interventions.controls=[]"]
    given += ["interventions.tuned.top=0.2", "evaluate.bootstrap=100"]
    for stage in STAGES:
        run_stage(stage, load_config(None, given), folder / name)
    return folder / name


def frozen(file: Path, folder: Path, names: Sequence[str]) -> None:
    """Pack folders, each whole, but for what is drawn."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid, member.gid, member.uname, member.gname, member.mtime = 0, 0, "", "", 0
        return None if set(Path(member.name).parts) & _DRAWN else member

    with tarfile.open(file, "w:xz", preset=9) as archive:
        for name in names:
            archive.add(folder / name, name, filter=plain)


def thawed(file: Path, folder: Path) -> Path:
    """Unpack what `frozen` has packed; the folder."""
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    """Write what is missing."""
    wanted = [file for file in (AUDIT, COMPARISON, LENS) if not file.exists()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_table(folder / "topics.parquet", labelled(CONCEPTS[:2], validation=3).to_table())
        before, after = (audit(folder, name, seed) for seed, name in enumerate(("before", "after")))
        if AUDIT in wanted:
            frozen(AUDIT, folder, ("before", "after"))
        if COMPARISON in wanted:
            compare(before, after, folder / "comparison")
            frozen(COMPARISON, folder, ("comparison",))
        if LENS in wanted:
            export_lens(after, CONCEPTS[0]).save(LENS)
    sys.stdout.writelines(f"{file}\n" for file in wanted)


if __name__ == "__main__":
    main()
