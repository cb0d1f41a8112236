"""How often gates were wrong, from what draws have measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.calibration.draws import Draw, Numbers
from neuronlens.comparison.gates import Number
from neuronlens.config import Config
from neuronlens.rules import Rule

# what a change must not do, as lines of checkpoints are gated (docs/lines.md)
CHANGES = ("base_accuracy drop <= 0", "selectivity drop <= 0", "drift.max_wasserstein <= 0.5")
CAUGHT = ("base_accuracy drop <= 0.02", "base_accuracy drop <= 0", "drift.max_wasserstein <= 0.5")


@dataclass(frozen=True)
class Rate:
    """How often a gate fails.

    Attributes:
        checkpoint: `plain`, or the later one of a comparison.
        rule: the gate.
        truth: mean of its number over all draws.
        failed, undecided: shares of the draws.
    """

    checkpoint: str
    rule: str
    truth: float
    failed: float
    undecided: float


def rates(draws: Sequence[Draw], config: Config) -> list[Rate]:
    """Of the gates of a configuration, at their bounds and right at the truth; and of those on changes.

    Args:
        config: whose gates are of numbers that an audit of a classifier has, or left out.
    """
    found = []
    for params in config.gates.values():
        rule = Rule.parse(params.rule)
        if rule.of is None and rule.name in draws[0].audit:
            found += [_rate("plain", params.rule, (one.audit for one in draws))]
            found += [_at_the_truth("plain", rule, (one.audit for one in draws))]
    found += [_rate("again", rule, (one.again for one in draws)) for rule in CHANGES]
    found += [_rate("worse", rule, (one.worse for one in draws)) for rule in CAUGHT]
    for name in ("base_accuracy", "selectivity"):
        rule = Rule.parse(f"{name} drop <= 0")
        found += [_at_the_truth("worse", rule, (one.worse for one in draws))]
    return found


def any_failed(draws: Sequence[Draw], config: Config) -> float:
    """Share of the draws in which the plain checkpoint fails a gate of a configuration, or one on changes when it is saved again."""
    rules = [params.rule for params in config.gates.values()]
    return fmean(
        any(_verdict(Rule.parse(rule), one.audit) == "FAIL" for rule in rules)
        or any(_verdict(Rule.parse(rule), one.again) == "FAIL" for rule in CHANGES)
        for one in draws
    )


def _rate(checkpoint: str, rule: str, numbers: Iterable[Numbers]) -> Rate:
    measured = [*numbers]
    verdicts = [_verdict(Rule.parse(rule), each) for each in measured]
    truth = fmean(_number(Rule.parse(rule), each).value for each in measured)
    return Rate(checkpoint, rule, truth, *(fmean(word == own for own in verdicts) for word in ("FAIL", "NOT DECIDED")))


def _at_the_truth(checkpoint: str, rule: Rule, numbers: Iterable[Numbers]) -> Rate:
    """A gate whose bound is the truth: it holds, and nothing could be nearer to failing."""
    measured = [*numbers]
    truth = fmean(_number(rule, each).value for each in measured)
    words = f"{rule.name} {rule.of} {rule.op} truth" if rule.of else f"{rule.name} {rule.op} truth"
    exact = Rule(rule.name, rule.of, rule.op, truth)
    verdicts = [_verdict(exact, each) for each in measured]
    return Rate(checkpoint, words, truth, *(fmean(word == own for own in verdicts) for word in ("FAIL", "NOT DECIDED")))


def _verdict(rule: Rule, numbers: Mapping[str, Number]) -> str | None:
    """None where there is no such number."""
    number = _number(rule, numbers)
    return None if number is None else rule.judge(number.low, number.high)


def _number(rule: Rule, numbers: Mapping[str, Number]) -> Number | None:
    return numbers.get(f"{rule.name} {rule.of}" if rule.of else rule.name)
