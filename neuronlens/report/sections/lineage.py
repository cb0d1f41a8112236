"""Where an audit comes from, as its page shows it: what went in, and each stage's artifact with its hash and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.report.context import Context, Step

WORDS: Mapping[str, str] = {
    "prepare": "data",
    "extract": "activations",
    "fit": "ranges",
    "evaluate": "evaluation",
    "report": "report",
}
"""Stage -> what it makes."""


@dataclass(frozen=True)
class Lineage:
    """The section of the page.

    Attributes:
        steps: what came in, then stage by stage.
        words: stage -> what it makes.
        told: whether times, outcomes and DVC's hashes are known.
        made: what else knows of the audit: name -> identity.
        command: that makes it again; None where it is not known.
    """

    steps: Sequence[Step]
    words: Mapping[str, str]
    told: bool
    made: Mapping[str, str]
    command: str | None


def lineage(audit: Mapping[str, Any], context: Context | None) -> Lineage:
    """From audit.json, which knows the stages before the report; the context knows more."""
    if context is not None and context.lineage:
        return Lineage(context.lineage, WORDS, True, context.made, context.command)
    came = [Step(name, audit[name]["fingerprint"]) for name in ("checkpoint", "dataset")]
    made = [Step(name, known["hash"], known["bytes"]) for name, known in audit["artifacts"].items()]
    return Lineage([*came, *made], WORDS, False, {}, None)
