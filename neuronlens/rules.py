"""Rules of gates: named inequalities, and what an interval says of one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["PASS", "FAIL", "NOT DECIDED", "NOT APPLICABLE"]
"""The last of a change where there is nothing that it could be a change of."""

_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_RULE = re.compile(
    r"\s*(?P<name>[A-Za-z_]\w*(?:\.[^\s<>=]+)?)(?:\s+(?P<of>drop|rise|change))?\s*(?P<op><=|>=|<|>)\s*(?P<bound>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Rule:
    """An inequality.

    Attributes:
        name: of a number, with a concept or a pattern of concepts behind a dot.
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
            raise ValueError(f"{text!r} is no rule such as 'selectivity.sports >= 0.3' or 'base_accuracy drop <= 0.02'")
        return cls(found["name"], found["of"], found["op"], float(found["bound"]))

    def judge(self, low: float, high: float) -> Verdict:
        """By an interval."""
        best, worst = (low, high) if self.op.startswith("<") else (high, low)
        fulfils = _COMPARED[self.op]
        if fulfils(worst, self.bound):
            return "PASS"
        return "NOT DECIDED" if fulfils(best, self.bound) else "FAIL"
