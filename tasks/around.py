"""What stands around an audit, in numbers: its gates judged, the audit before it, the trend of its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from neuronlens.comparison.gates import Judged, beside, holds_still
from neuronlens.errors import ConfigError, UserError
from neuronlens.report.context import Numbers, main_numbers
from neuronlens.report.finished import SCHEMA_VERSION, audit_of
from neuronlens.report.verdict import Verdict, verdict
from tasks.comparing import judged, stored
from tasks.lines import Decision
from tasks.surroundings import Gates, Surroundings, is_finished


@dataclass(frozen=True)
class Around:
    """Around an audit.

    Attributes:
        place: where all of it lies.
        document: audit.json.
        gates: fields of `Judged`, bounds, margins and the numbers before.
        day: on which they were judged.
        compared: comparison.json of the audit and the one before it; None where none of what they are now is stored.
    """

    place: Surroundings
    document: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    day: str
    compared: Mapping[str, Any] | None = None

    @cached_property
    def ruling(self) -> Verdict:
        """What the gates say together."""
        return verdict(self.gates)

    @cached_property
    def numbers(self) -> Numbers:
        """The audit's own."""
        decision = self.place.decision
        name = str(self.document["checkpoint"]["name"]) if decision is None else decision.checkpoint
        return Numbers(name, main_numbers(self.document), self.ruling.word if self.gates else None, current=True)

    @cached_property
    def trend(self) -> list[tuple[Path, Numbers]]:
        """Folder and numbers of the last audits of the line up to this one; without a line, of the one before and this one."""
        place = self.place
        beside_it = place.audit.folder.resolve().parent
        folders: list[tuple[Path, Decision | None]] = [
            (beside_it / str(decision.audit), decision) for decision in place.earlier
        ]
        if place.line is None and place.before is not None:
            folders = [(place.before, None)]
        found = [(folder, numbers_of(folder, decision)) for folder, decision in folders]
        known = [(folder, numbers) for folder, numbers in found if numbers is not None]
        return [*known, (place.audit.folder, self.numbers)]

    @cached_property
    def last(self) -> Numbers | None:
        """The audit before this one."""
        before = self.place.before
        if before is None:
            return None
        shown = next((own for folder, own in self.trend[:-1] if folder.resolve() == before.resolve()), None)
        return shown or numbers_of(before)


def around(place: Surroundings) -> Around:
    """What is stored around an audit. Nothing is computed.

    Raises:
        UserError: the audit is not finished, or another version of NeuronLens has written it.
    """
    audit, document = place.audit, audit_of(place.audit.folder)
    if document["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"was written by another version of NeuronLens (audit.json is of schema {document['schema_version']}, not {SCHEMA_VERSION})",
            where=str(audit.folder),
            cure="Bring it up to date first: neuronlens audit does, and computes again only what has changed.",
        )
    compared = None
    if place.before is not None and place.comparison is not None:
        compared = stored(place.before, audit.folder, place.comparison, seed=audit.config.seed)
    decision = place.decision
    if decision is not None and not place.since and holds_still(decision.gates, place.gates, document):
        told, day = decision.gates, decision.at[:10]
    else:
        told = [asdict(gate) for gate in _judged(place.gates, audit.folder, place.comparison if compared else None)]
        day = date.today().isoformat()
    before = None if place.before is None else audit_of(place.before)
    return Around(place, document, beside(told, place.gates, before, place.judged_before()), day, compared)


def numbers_of(folder: Path, decision: Decision | None = None) -> Numbers | None:
    """Main numbers of a stored audit; None where it is not there.

    Args:
        decision: of the line that watched it.
    """
    if not is_finished(folder):
        return None
    document = audit_of(folder)
    name = str(document["checkpoint"]["name"]) if decision is None else decision.checkpoint
    word = verdict(beside(decision.gates, {})).word if decision is not None and decision.gates else None
    return Numbers(name, main_numbers(document), word)


def _judged(gates: Gates, folder: Path, comparison: Path | None) -> list[Judged]:
    """Gates, one by one: of one that names no known number the page says so."""
    found = []
    for name, gate in gates.items():
        try:
            found += judged({name: gate}, folder, comparison)
        except ConfigError as error:
            found.append(Judged(name, gate.rule, None, None, None, None, "NOT DECIDED", note=str(error)))
    return found
