"""Pages of what stands around audits: index.html in an audit's folder and in that of a comparison, and audits/index.html over all of them.

They are made of what is stored and are no artifacts: they name days, runs and other audits. A page whose making has not changed is left as
it is, so that an audit that finds nothing to compute stays quick.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from neuronlens import artifact, methods
from neuronlens.comparison.gates import Judged, beside, holds_still
from neuronlens.comparison.page import html as comparison_html
from neuronlens.config import GateParams
from neuronlens.errors import ArtifactError, ConfigError, NeuronLensError, UserError, redacted
from neuronlens.report import index
from neuronlens.report.context import Context, Links, Numbers, Step, main_numbers
from neuronlens.report.document import SCHEMA_VERSION
from neuronlens.report.finished import audit_of
from neuronlens.report.index import INDEX
from neuronlens.report.page import html
from neuronlens.report.verdict import Verdict, verdict
from neuronlens.stages import OUTSIDE, STAGES, Outcome
from tasks import tracking
from tasks.audits import AUDITS, Audit, open_existing
from tasks.catalogue import lines_of
from tasks.comparing import judged, place_of, stored
from tasks.lines import Decision, Line
from tasks.pipeline import AUDIT_FILE, PIPELINE_FILE
from tasks.versioning import LOCKS, Workspace

TREND = 12
"""Audits of a line that are shown on a page, the last one being its own."""

_GENERATOR = '<meta name="generator" content="NeuronLens">'
_BASIS = re.compile(r"<!-- made of ([0-9a-f]{64}) -->\s*\Z")

Gates = Mapping[str, GateParams]


@dataclass(frozen=True)
class Written:
    """A page that is there.

    Attributes:
        page: where.
        verdict: PASS, FAIL or NOT DECIDED.
        index_remade: whether the index over all audits was damaged, and has been made of the audits that are stored.
    """

    page: Path
    verdict: str
    index_remade: bool = False


@dataclass(frozen=True)
class Around:
    """What stands around an audit.

    Attributes:
        audit: the audit.
        document: its audit.json.
        gates: fields of `Judged`, bounds, margins and numbers before.
        day: on which they were judged.
        before: folder of the audit before it; None where there is none.
        comparison: folder of the comparison of the two; None where none is stored.
        compared: its comparison.json.
        line: that watched it; None where none did.
        decision: what the line says of it.
    """

    audit: Audit
    document: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    day: str
    before: Path | None = None
    comparison: Path | None = None
    compared: Mapping[str, Any] | None = None
    line: Line | None = None
    decision: Decision | None = None

    @cached_property
    def ruling(self) -> Verdict:
        """What the gates say together."""
        return verdict(self.gates)

    @cached_property
    def basis(self) -> str:
        """Identity of all that its page is made of, but for who made it and when."""
        return artifact.hash_value(
            {
                "audit": tracking.state_key(self.audit.folder),
                "gates": self.gates,
                "before": None if self.before is None else self.before.resolve().name,
                "comparison": None if self.comparison is None else artifact.content_hash(self.comparison),
                "trend": [[name, dict(own.values), own.verdict] for name, own in self.trend],
                "line": None if self.line is None else self.line.name,
                "methods": [methods.REPORT, methods.COMPARE],
                "versions": artifact.library_versions(),
            }
        )

    @cached_property
    def trend(self) -> list[tuple[str, Numbers]]:
        """Name of the audit, and its numbers, for the last ones of the line up to this; of the one before and this without a line."""
        if self.line is None or self.decision is None:
            folders = [] if self.before is None else [self.before]
            found = [(each.resolve().name, read_numbers(each)) for each in folders]
        else:
            last = {decision.checkpoint: decision for decision in self.line.decisions() if _is_audit(decision)}
            until = [each for each in last.values() if each.order < self.decision.order and each.audit != self._name]
            found = [
                (str(each.audit), read_numbers(self.line.root / AUDITS / str(each.audit), each))
                for each in sorted(until, key=lambda each: each.order)[1 - TREND :]
            ]
        own = Numbers(self._shown, main_numbers(self.document), self.ruling.word if self.gates else None, current=True)
        return [*((name, numbers) for name, numbers in found if numbers is not None), (self._name, own)]

    @property
    def _name(self) -> str:
        return self.audit.folder.resolve().name

    @property
    def _shown(self) -> str:
        return str(self.document["checkpoint"]["name"]) if self.decision is None else self.decision.checkpoint

    @property
    def last(self) -> Numbers | None:
        """The audit before this one."""
        if self.before is None:
            return None
        shown = next((own for name, own in self.trend if name == self.before.resolve().name), None)
        return shown or read_numbers(self.before)


def around(audit: Audit, gates: Gates, since: Path | None = None, comparison: Path | None = None) -> Around:
    """What is stored around an audit.

    Args:
        gates: that it is judged by, unless a line of checkpoints has judged the very numbers that it has now.
        since: folder of the audit before it; what the line says unless told otherwise.
        comparison: folder of the comparison of the two; where comparisons lie unless told otherwise.

    Raises:
        UserError: it is not finished, or another version of NeuronLens has written it.
    """
    document = audit_of(audit.folder)
    if document["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"was written by another version of NeuronLens (audit.json is of schema {document['schema_version']}, not {SCHEMA_VERSION})",
            where=str(audit.folder),
            cure="Bring it up to date first: neuronlens audit does, and computes again only what has changed.",
        )
    line, decision = _found_in_line(audit)
    before = since
    if since is None and line is not None and decision is not None and decision.before is not None:
        known = line.root / AUDITS / decision.before
        before = known if _is_finished(known) else None
    folder, found = None, None
    if before is not None:
        place = comparison or place_of(before, audit.folder)
        found = stored(before, audit.folder, place, seed=audit.config.seed)
        folder = None if found is None else place
    kept = since is None and decision is not None and holds_still(decision.gates, gates, document)
    if kept and decision is not None:
        told, day = decision.gates, decision.at[:10]
    else:
        told = [asdict(gate) for gate in _judged(gates, audit.folder, folder)]
        day = date.today().isoformat()
    earlier = [] if before is None or line is None else _gates_of(line, before.resolve().name)
    rows = beside(told, gates, None if before is None else audit_of(before), earlier)
    return Around(audit, document, rows, day, before, folder, found, line, decision)


def write_pages(
    found: Around, outcomes: Sequence[Outcome] = (), out: Path | None = None, *, anew: bool = False
) -> Written:
    """Write the page of an audit, that of its comparison, and its entry in the index over all audits.

    Args:
        outcomes: of its stages, in the run that has just ended.
        out: where the audit's page goes; index.html in the audit's folder unless told otherwise, and then nothing else is written.
        anew: also where nothing has changed.

    Raises:
        UserError: a page would take the place of a file that NeuronLens did not write.
    """
    page = out or found.audit.folder / INDEX
    if anew or out is not None or _basis_of(page) != found.basis:
        context = _context(found, page.parent, outcomes)
        _write(page, f"{html(found.document, context)}\n<!-- made of {found.basis} -->\n")
    if out is not None:
        return Written(page, found.ruling.word)
    if found.compared is not None and found.comparison is not None:
        write_comparison(found, found.comparison, found.compared, anew=anew)
    return Written(page, found.ruling.word, _in_index(found, anew=anew))


def write_comparison(found: Around, folder: Path, comparison: Mapping[str, Any], *, anew: bool = False) -> Path:
    """Write index.html of a comparison: its page with the gates of the second audit on it. comparison.html stays as it is.

    Args:
        found: around the second audit.
        folder: of the comparison.
        comparison: its comparison.json.
        anew: also where nothing has changed.
    """
    page = folder / INDEX
    if anew or _basis_of(page) != found.basis:
        context = replace(_context(found, folder, (), lineage=False), comparison=comparison)
        _write(page, f"{comparison_html(comparison, context)}\n<!-- made of {found.basis} -->\n")
    return page


def read_numbers(folder: Path, decision: Decision | None = None) -> Numbers | None:
    """Of a stored audit; None where it is not there."""
    if not _is_finished(folder):
        return None
    document = audit_of(folder)
    name = str(document["checkpoint"]["name"]) if decision is None else decision.checkpoint
    word = verdict(beside(decision.gates, {})).word if decision is not None and decision.gates else None
    return Numbers(name, main_numbers(document), word)


def _context(found: Around, base: Path, outcomes: Sequence[Outcome], *, lineage: bool = True) -> Context:
    """As a page in the folder `base` tells it."""
    root = _root(found.audit)
    folders = {name: found.audit.folder.resolve().parent / name for name, _ in found.trend}
    trend = [
        replace(own, link=_link(folders[name] / INDEX, base) if (folders[name] / INDEX).is_file() else None)
        for name, own in found.trend
    ]
    before = None if found.before is None else found.before / INDEX
    links = Links(
        index=None if root is None else _link(root / AUDITS / INDEX, base),
        audit=_link(found.audit.folder / INDEX, base),
        before=_link(before, base) if before is not None and before.is_file() else None,
        comparison=None if found.comparison in (None, base) else _link(found.comparison / INDEX, base),
    )
    steps, made = _lineage(found.audit, outcomes) if lineage else ([], {})
    return Context(
        gates=found.gates,
        judged=found.day if found.gates else None,
        line=None if found.line is None else found.line.name,
        before=found.last,
        comparison=found.compared,
        trend=trend,
        lineage=steps,
        made=made,
        command=_command(found.audit) if lineage else None,
        links=links,
    )


def _lineage(audit: Audit, outcomes: Sequence[Outcome]) -> tuple[list[Step], dict[str, str]]:
    """What came in and what was made of it, by the manifests; and who else knows of it."""
    tags: dict[str, str] = {}
    made: dict[str, str] = {}
    # a folder that DVC does not know is noted nowhere but where the user has named a store
    noted = audit if audit.pipeline is not None else replace(audit, workspace=None)
    try:
        known = tracking.origin(noted)
        if known is not None:
            run, tags = known
            made["MLflow run"] = run.run
            own = audit.workspace is not None and str(audit.workspace.root) in run.uri
            made["MLflow store"] = "of this workspace" if own else redacted(run.uri)
    except tracking.StoreError as error:
        made["MLflow run"] = f"not known: {error}"
    if "prefect.flow_run" in tags:
        made["Prefect flow run"] = tags["prefect.flow_run"]
    if "git.commit" in tags:
        made["git commit"] = tags["git.commit"]
    now = {each.stage: f"{each.outcome}: {each.reason}" for each in outcomes}
    manifests = {name: artifact.read_manifest(audit.folder / name) for name in STAGES}
    inputs = {key: value for each in manifests.values() for key, value in each["inputs"].items() if key in OUTSIDE}
    came = [Step(name, inputs[name]) for name in OUTSIDE if inputs.get(name, "none") != "none"]
    steps = []
    for name, manifest in manifests.items():
        dvc = next((md5 for key, md5 in tags.items() if key.startswith("dvc.") and key.endswith(f"/{name}")), None)
        steps.append(
            Step(
                name,
                artifact.content_hash(audit.folder / name),
                sum(file["bytes"] for file in manifest["files"].values()),
                _timing(audit.folder / name).get("seconds"),
                _in_words(tags.get(f"neuronlens.{name}") or now.get(name)),
                dvc,
            )
        )
    return [*came, *steps], made


def _in_words(how: str | None) -> str | None:
    """An outcome with its reason, in the words of a reader who asks whether something was computed anew."""
    outcome, _, reason = (how or "").partition(": ")
    return {"current": f"reused: {reason}", "restored": f"reused: {reason}"}.get(outcome, how)


def _command(audit: Audit) -> str:
    """That makes the audit again, from the root of its workspace, or from the current folder."""
    root = _root(audit)
    folder = audit.folder.resolve()
    told = (
        folder.relative_to(root.resolve())
        if root is not None and folder.is_relative_to(root.resolve())
        else audit.folder
    )
    if audit.pipeline is not None and audit.pipeline.file == PIPELINE_FILE:
        return f"neuronlens audit --out {shlex.quote(told.as_posix())}"
    if (folder / AUDIT_FILE).is_file():
        return f"neuronlens audit --params {shlex.quote((told / AUDIT_FILE).as_posix())}"
    return f"neuronlens audit --out {shlex.quote(told.name)}, with the parameters in audit.json"


def _in_index(found: Around, *, anew: bool) -> bool:
    """Put the audit into the index over all of the workspace's; whether that had to be made of what is stored."""
    root = _root(found.audit)
    if root is None or found.audit.folder.resolve().parent != (root / AUDITS).resolve():
        return False
    file = root / AUDITS / INDEX
    locks = root / ".dvc" / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "index.lock", thread_local=False):
        text = file.read_bytes().decode(errors="replace") if file.exists() else None
        entries, whole = index.read(text) if text is not None else ([], True)
        key = index.key_of(found.audit.folder.resolve().name)
        if whole and not anew and any((old.key, old.basis) == (key, found.basis) for old in entries):
            return False
        if not whole:
            entries = _from_stored(root, entries, but=key)
        if not whole:
            file.unlink()
        _write(file, index.index_html(index.added(entries, _entry(found, root))))
    return not whole


def _from_stored(root: Path, entries: Sequence[index.Entry], *, but: str) -> list[index.Entry]:
    """Entries of the audits that are stored, beside those that are whole still.

    Args:
        but: key of the one that is about to be written anyway.
    """
    found = [*entries]
    known = {each.key for each in entries} | {but}
    folders = [file.parents[1] for file in (root / AUDITS).glob("*/report/audit.json")]
    for folder in sorted(folders, key=lambda each: (str(_timing(each / "report").get("finished", "")), each.name)):
        if index.key_of(folder.name) in known:
            continue
        with suppress(NeuronLensError):  # of one that cannot be read nothing can be told
            audit = open_existing(folder)
            found = index.added(found, _entry(around(audit, audit.config.gates), root))
    return found


def _entry(found: Around, root: Path) -> index.Entry:
    base, own = root / AUDITS, found.trend[-1][1]
    page = found.audit.folder / INDEX
    finished = str(_timing(found.audit.folder / "report").get("finished", ""))
    return index.entry(
        found.audit.folder.resolve().name,
        replace(own, link=_link(page, base)),
        found.ruling,
        dataset=str(found.document["dataset"]["name"]),
        basis=found.basis,
        line="" if found.line is None else found.line.name,
        order=0 if found.decision is None else found.decision.order,
        day=finished[:10] or None,
        comparison=None if found.comparison is None else _link(found.comparison / INDEX, base),
    )


def _judged(gates: Gates, folder: Path, comparison: Path | None) -> list[Judged]:
    """Gates, one by one: of one that names no known number the page says so."""
    found = []
    for name, gate in gates.items():
        try:
            found += judged({name: gate}, folder, comparison)
        except ConfigError as error:
            found.append(Judged(name, gate.rule, None, None, None, None, "NOT DECIDED", note=str(error)))
    return found


def _found_in_line(audit: Audit) -> tuple[Line | None, Decision | None]:
    """The line that watched an audit, and its last word on it."""
    root = _root(audit)
    name = audit.folder.resolve().name
    if root is None or audit.folder.resolve().parent != (root / AUDITS).resolve():
        return None, None
    found = [
        (line, decision)
        for line in (Line(root, known, known) for known in lines_of(root))
        for decision in line.decisions()
        if decision.audit == name and _is_audit(decision)
    ]
    return max(found, key=lambda each: each[1].at, default=(None, None))


def _gates_of(line: Line, audit: str) -> list[dict[str, Any]]:
    """Of an audit, as the line judged them last."""
    return next((each.gates for each in reversed(line.decisions()) if each.audit == audit and _is_audit(each)), [])


def _is_audit(decision: Decision) -> bool:
    return decision.audit is not None and decision.outcome == "audited"


def _is_finished(folder: Path) -> bool:
    return all((folder / name / artifact.MANIFEST).is_file() for name in STAGES)


def _timing(stage: Path) -> dict[str, Any]:
    """How long a stage took and when, where it was computed here."""
    try:
        found: dict[str, Any] = artifact.read_json(stage / artifact.TIMING)
    except ArtifactError:
        return {}
    return found


def _root(audit: Audit) -> Path | None:
    workspace = audit.workspace or Workspace.find(audit.folder)
    return None if workspace is None else workspace.root


def _link(to: Path, base: Path) -> str:
    """A relative address; what is in a name is no part of it."""
    return quote(Path(os.path.relpath(to.resolve(), base.resolve())).as_posix())


def _basis_of(page: Path) -> str | None:
    """What a page was made of."""
    if not page.is_file():
        return None
    with page.open("rb") as file:
        file.seek(max(0, page.stat().st_size - 200))
        found = _BASIS.search(file.read().decode(errors="replace"))
    return None if found is None else found[1]


def _write(page: Path, text: str) -> None:
    """Whole or not at all, and never in the place of a file of somebody else's."""
    if page.is_dir() or (page.exists() and _GENERATOR.encode() not in page.read_bytes()[:4096] and page.stat().st_size):
        raise UserError(
            "is no page of NeuronLens", where=str(page), cure="Name another file with --out, or move it away."
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    part = page.with_name(f".{page.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(page)
