"""What lies around an audit in its workspace: the line that watched it, the audit before it, the comparison of the two.

It is found by manifests and records alone, without reading a number, so that asking whether a page is as it should be stays quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from neuronlens import artifact, methods
from neuronlens.config import GateParams
from neuronlens.errors import ArtifactError
from neuronlens.stages import STAGES
from tasks import tracking
from tasks.audits import AUDITS, INDEX, Audit
from tasks.lines import Decision, Line, lines_of
from tasks.versioning import Workspace

COMPARISONS = "comparisons"
TREND = 12
"""Audits of a line that are shown on a page, the last one being its own."""

Gates = Mapping[str, GateParams]

_BASIS = re.compile(r"<!-- made of ([0-9a-f]{64}) -->\s*\Z")


@dataclass(frozen=True)
class Surroundings:
    """Of an audit.

    Attributes:
        audit: the audit.
        gates: that it is judged by, unless its line has judged the very numbers that it has now.
        root: of the workspace; None outside of any.
        line: that watched it; None where none did.
        decision: what the line says of it.
        since: whether somebody has named the audit before it.
        before: folder of the audit before it; None where there is none.
        comparison: folder where the comparison of the two lies, if it has been made; None where there is no audit before it.
    """

    audit: Audit
    gates: Gates
    root: Path | None
    line: Line | None = None
    decision: Decision | None = None
    since: bool = False
    before: Path | None = None
    comparison: Path | None = None

    @property
    def name(self) -> str:
        """Of the audit."""
        return self.audit.folder.resolve().name

    @property
    def is_listed(self) -> bool:
        """Whether it belongs into the index over all audits."""
        return self.root is not None and self.audit.folder.resolve().parent == (self.root / AUDITS).resolve()

    @property
    def page(self) -> Path:
        """Where its page goes."""
        return self.audit.folder / INDEX

    @cached_property
    def earlier(self) -> Sequence[Decision]:
        """The last word on each checkpoint of the line before this one, in their order, as many as a page shows."""
        if self.line is None or self.decision is None:
            return []
        last = {decision.checkpoint: decision for decision in self.line.decisions() if is_audit(decision)}
        before = [each for each in last.values() if each.order < self.decision.order and each.audit != self.name]
        return sorted(before, key=lambda each: each.order)[1 - TREND :]

    def judged_before(self) -> list[dict[str, object]]:
        """Gates of the audit before, as the line judged them last."""
        if self.line is None or self.before is None:
            return []
        name = self.before.resolve().name
        return next(
            (each.gates for each in reversed(self.line.decisions()) if each.audit == name and is_audit(each)), []
        )

    @cached_property
    def basis(self) -> str:
        """Identity of all that its pages are made of, but for who made it and when."""
        waivers = {name: gate.waiver for name, gate in self.gates.items() if gate.waiver is not None}
        return artifact.hash_value(
            {
                "audit": tracking.state_key(self.audit.folder),
                "gates": {name: gate.model_dump(mode="json") for name, gate in self.gates.items()},
                "ended": [name for name, waiver in waivers.items() if waiver.until < date.today()],
                "decision": None if self.decision is None else asdict(self.decision),
                "before": None
                if self.before is None
                else [self.before.resolve().name, _identity(self.before / "report")],
                "judged before": self.judged_before(),
                "comparison": None if self.comparison is None else _identity(self.comparison),
                "trend": [[asdict(each), _identity(self._folder(each) / "report")] for each in self.earlier],
                "methods": [methods.REPORT, methods.COMPARE],
                "versions": artifact.library_versions(),
            }
        )

    def _folder(self, decision: Decision) -> Path:
        return self.audit.folder.resolve().parent / str(decision.audit)

    def is_current(self) -> bool:
        """Whether all of its pages are there, and made of what is there now."""
        pages = [self.page]
        if self.comparison is not None and _identity(self.comparison) is not None:
            pages.append(self.comparison / INDEX)
        if any(basis_of(page) != self.basis for page in pages):
            return False
        if self.root is None or not self.is_listed:
            return True
        index = self.root / AUDITS / INDEX
        return index.is_file() and f" {self.basis} ".encode() in index.read_bytes()


def surroundings(audit: Audit, gates: Gates, since: Path | None = None, comparison: Path | None = None) -> Surroundings:
    """What lies around an audit.

    Args:
        gates: see `Surroundings`.
        since: folder of the audit before it; what the line says unless told otherwise.
        comparison: folder of the comparison of the two; where comparisons lie unless told otherwise.
    """
    workspace = audit.workspace or Workspace.find(audit.folder)
    found = Surroundings(audit, gates, None if workspace is None else workspace.root)
    line, decision = _in_line(found)
    before = since
    if since is None and line is not None and decision is not None and decision.before is not None:
        known = line.root / AUDITS / decision.before
        before = known if is_finished(known) else None
    place = None if before is None else comparison or place_of(before, audit.folder)
    return Surroundings(audit, gates, found.root, line, decision, since is not None, before, place)


def _in_line(found: Surroundings) -> tuple[Line | None, Decision | None]:
    """The line that watched an audit, and its last word on it."""
    if found.root is None or not found.is_listed:
        return None, None
    known = [
        (line, decision)
        for line in (Line(found.root, name, name) for name in lines_of(found.root))
        for decision in line.decisions()
        if decision.audit == found.name and is_audit(decision)
    ]
    return max(known, key=lambda each: each[1].at, default=(None, None))


def place_of(a: Path, b: Path, *, transferred: bool = False) -> Path:
    """Where the comparison of two audits goes: beside the folder that holds the second one's."""
    a, b = a.resolve(), b.resolve()
    return (
        b.parent.parent
        / COMPARISONS
        / f"{artifact.shortened(a.name)}--{artifact.shortened(b.name)}{'--transfer' if transferred else ''}"
    )


def is_audit(decision: Decision) -> bool:
    """Whether an audit was made for it."""
    return decision.audit is not None and decision.outcome == "audited"


def is_finished(folder: Path) -> bool:
    """Whether all stages of an audit are there."""
    return all((folder / name / artifact.MANIFEST).is_file() for name in STAGES)


def link(to: Path, base: Path) -> str:
    """A relative address from a page in the folder `base`; what is in a name is no part of it."""
    return quote(Path(os.path.relpath(to.resolve(), base.resolve())).as_posix())


def basis_of(page: Path) -> str | None:
    """What a page was made of; None where there is none, or it does not say."""
    if not page.is_file():
        return None
    with page.open("rb") as file:
        file.seek(max(0, page.stat().st_size - 200))
        found = _BASIS.search(file.read().decode(errors="replace"))
    return None if found is None else found[1]


def with_basis(html: str, basis: str) -> str:
    """A page that says what it was made of."""
    return f"{html}\n<!-- made of {basis} -->\n"


def _identity(folder: Path) -> str | None:
    try:
        return artifact.content_hash(folder)
    except ArtifactError:
        return None
