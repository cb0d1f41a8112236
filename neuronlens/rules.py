"""Rules of gates: named inequalities, and what an interval says of one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Literal

Verdict = Literal["PASS", "FAIL", "NOT DECIDED", "NOT APPLICABLE"]
"""The last of a change where there is nothing that it could be a change of."""

_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONCEPTS = r'[^\s<>="][^\s<>=]*'  # without quotes: a name, or a pattern of names
_RULE = re.compile(
    rf"\s*(?P<number>[A-Za-z_]\w*)(?:\.(?:(?P<concepts>{_CONCEPTS})|\"(?P<concept>[^\"]+)\"))?(?:\s+(?P<of>drop|rise|change))?"
    r"\s*(?P<op><=|>=|<|>)\s*(?P<bound>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Rule:
    """An inequality.

    Attributes:
        name: of a number, with a pattern of concepts behind a dot, as `fnmatch` reads it.
        of: None for the number itself; `drop`, `rise` or `change` for what became of it since the audit before.
        op: `<=`, `>=`, `<`, `>`.
        bound: on the other side.
    """

    name: str
    of: str | None
    op: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Rule:
        """From words such as `base_accuracy drop <= 0.02`.

        Raises:
            ValueError: it is no rule.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no rule such as 'selectivity.sports >= 0.3', 'base_accuracy drop <= 0.02' or "
                "'selectivity.\"a concept\" >= 0.3'"
            )
        concepts = found["concepts"] if found["concept"] is None else escape(found["concept"])
        name = found["number"] if concepts is None else f"{found['number']}.{concepts}"
        return cls(name, found["of"], found["op"], float(found["bound"]))

    def judge(self, low: float, high: float) -> Verdict:
        """By an interval."""
        best, worst = (low, high) if self.op.startswith("<") else (high, low)
        fulfils = _COMPARED[self.op]
        if fulfils(worst, self.bound):
            return "PASS"
        return "NOT DECIDED" if fulfils(best, self.bound) else "FAIL"


def as_written(name: str) -> str:
    """The name of a number as it stands in a rule: a concept that would be read as something else is in quotes, or where it has quotes
    itself a pattern.
    """
    number, dot, concept = name.partition(".")
    if not dot or (re.fullmatch(_CONCEPTS, concept) and escape(concept) == concept and '"' not in concept):
        return name
    if '"' not in concept:
        return f'{number}."{concept}"'
    pattern = re.sub(r'[\s<>="]', "?", escape(concept))
    return f"{number}.{pattern}"
