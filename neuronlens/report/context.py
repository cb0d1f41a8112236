"""What stands around an audit: the gates it was judged by, the audit before it, the line it is one of, and how it came about.

None of it is part of the audit, so the page that the stage writes knows nothing of it; whoever keeps audits hands it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Numbers:
    """An audit in a line: its main numbers.

    Attributes:
        name: of the checkpoint.
        values: `accuracy` (of the unedited model), `selectivity` and `complement_drop` (means over concepts of the tuned method, or the
            first of the sweep, at the deepest site), each with `_low` and `_high`, as shares; None where it was not measured.
        verdict: PASS, FAIL or NOT DECIDED, where it was judged.
        link: relative address of its page; None where there is none.
        current: whether it is the audit that the page is of.
    """

    name: str
    values: Mapping[str, float | None]
    verdict: str | None = None
    link: str | None = None
    current: bool = False


@dataclass(frozen=True)
class Step:
    """A stage's artifact, or what came in from outside.

    Attributes:
        name: of the stage, or `checkpoint`, `dataset`, `auxiliary`, `questions`.
        hash: of its content.
        bytes: of its files; None where that is not known.
        seconds: that it took to compute; None where that is not known here.
        how: computed or reused, and why.
        dvc: what DVC calls its content.
    """

    name: str
    hash: str
    bytes: int | None = None
    seconds: float | None = None
    how: str | None = None
    dvc: str | None = None


@dataclass(frozen=True)
class Links:
    """Relative addresses of pages; None where there is none.

    Attributes:
        index: of the one over all audits.
        audit: of this audit.
        before: of the audit before it.
        comparison: of the two compared.
    """

    index: str | None = None
    audit: str | None = None
    before: str | None = None
    comparison: str | None = None


@dataclass(frozen=True)
class Context:
    """Around an audit.

    Attributes:
        gates: as judged: the fields of `neuronlens.comparison.gates.Judged`, `bound`, `margin` (how far the worse end of the interval is
            inside the threshold; negative outside) and `previous` (the number at the audit before).
        judged: day on which that was, as 2027-01-31.
        line: name of the line of checkpoints, None where the audit is in none.
        before: the audit before it, None where there is none.
        comparison: comparison.json of the two, None where there is none.
        trend: the last audits of the line up to this one, in order.
        lineage: what came in, then stage by stage.
        made: what else knows of it: name -> identity, such as the git commit or the MLflow run.
        command: that makes the audit again.
        links: where the pages around this one lie.
    """

    gates: Sequence[Row] = ()
    judged: str | None = None
    line: str | None = None
    before: Numbers | None = None
    comparison: Row | None = None
    trend: Sequence[Numbers] = ()
    lineage: Sequence[Step] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    links: Links = field(default_factory=Links)


_MEASURED = {"selectivity": "selectivity", "complement_drop": "complement_accuracy_drop"}


def main_numbers(audit: Row) -> dict[str, float | None]:
    """The values of `Numbers`, from audit.json."""
    base, site = audit["base"], audit["sites"][-1]["site"]
    own = [row for row in audit["summary"] if row["site"] == site]
    row = next((row for row in own if (row["role"], row["method"]) == ("chosen", "tuned")), own[0])
    found = {f"accuracy{end}": base[name] for end, name in (("", "accuracy"), ("_low", "low"), ("_high", "high"))}
    return found | {
        f"{name}{end}": row[f"{column}{end}"] for name, column in _MEASURED.items() for end in ("", "_low", "_high")
    }
