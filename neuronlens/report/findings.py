"""Findings: what the numbers show in plain sentences, including that they show nothing.

Each finding is a claim fixed in advance, about a setting fixed in advance (`choose_settings`), at every site. Its verdict is `holds`,
`contradicted` or `not decided`, by `Effect.direction` alone; the sentence never says more than the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuronlens.evaluation.summary import Comparison, Effect, Setting
from neuronlens.report.text import count, points, points_between, significant

CLAIMS = {
    "known": "The unedited model tells the concepts apart",
    "effect": "Masking ranges lowers the accuracy on the target concept",
    "spares": "Ranges cost the other concepts less than whole neurons do (the paper's claim)",
    "confidence": "Ranges cost the other concepts less confidence than whole neurons do",
    "text": "Ranges cost ordinary text less than whole neurons do",
    "selective": "Ranges are more selective than whole neurons",
    "control": "The chosen neurons are more selective than random ones",
}
SALIENCY_WORDS = {"mean_abs": "mean |a|", "d_prime": "d'", "random": "chance"}
_VERDICTS = {1: "holds", -1: "contradicted", 0: "not decided"}
DECIDABLE_CONCEPTS = 6  # 2 / 2^6 < 5 %: below it a sign-flip test can decide nothing


@dataclass(frozen=True)
class Finding:
    """One claim at one site.

    Attributes:
        claim: key of `CLAIMS`.
        setting: name of a `Setting`; None for what no masking is part of.
        site: None likewise.
        verdict: `holds`, `contradicted`, `not decided`.
        sentence: in plain words, with the numbers.
        numbers: what the sentence rests on.
    """

    claim: str
    setting: str | None
    site: str | None
    verdict: str
    sentence: str
    numbers: Mapping[str, Any]


def find(
    settings: Sequence[Setting],
    base: Mapping[str, Any],
    unedited: Sequence[Comparison],
    whole: Sequence[Comparison],
    random: Sequence[Comparison],
) -> list[Finding]:
    """All findings, claim by claim within each setting.

    Args:
        base: the unedited model's accuracy, as in audit.json.
        unedited, whole, random: comparisons of range masking with no edit, with whole neurons, with random neurons.
    """
    found = [_known(base)]
    for setting in settings:
        for claim, comparisons, sentence in (
            ("effect", unedited, _effect),
            ("spares", whole, _spares),
            ("confidence", whole, _confidence),
            ("text", whole, _text),
            ("selective", whole, _selective),
            ("control", random, _control),
        ):
            for part in comparisons:
                if _belongs(part, setting) and (claim != "text" or "log_perplexity" in part.effects):
                    verdict, text = sentence(part)
                    numbers = {name: vars(effect) for name, effect in part.effects.items()} | {
                        "concepts": part.concepts,
                        "against": part.other,
                    }
                    found.append(Finding(claim, setting.name, part.site, _VERDICTS[verdict], text, numbers))
    return found


def _known(base: Mapping[str, Any]) -> Finding:
    accuracy, low, high, guess = (base[name] for name in ("accuracy", "low", "high", "majority"))
    verdict = int(low > guess) - int(high < guess)
    said = {
        1: f"better than always naming the most frequent concept ({points(guess)} %)",
        0: f"which cannot be told from always naming the most frequent concept ({points(guess)} %): an edit has little to take away",
        -1: f"worse than always naming the most frequent concept ({points(guess)} %): effects of an edit say little about what it knows",
    }[verdict]
    sentence = (
        f"Unedited, the model is right on {points(accuracy)} % {points_between(low, high)} of {count(base['n'], 'test row')}, "
        f"{said}."
    )
    return Finding("known", None, None, _VERDICTS[verdict], sentence, dict(base))


def _effect(part: Comparison) -> tuple[int, str]:
    target, complement = part.effects["target_accuracy_drop"], part.effects["complement_accuracy_drop"]
    verdict = target.direction
    change = {
        1: f"lowers target accuracy by {_size(target)}",
        -1: f"raises target accuracy by {_size(target, -1)}",
        0: f"moves target accuracy by {_size(target, -1, sign=True)}, which cannot be told from no change",
    }[verdict]
    return verdict, (
        f"Range masking {change}, on average over {count(part.concepts, 'concept')}; "
        f"the other concepts change by {_size(complement, -1, sign=True)}."
    )


def _spares(part: Comparison) -> tuple[int, str]:
    complement, target = part.effects["complement_accuracy_drop"], part.effects["target_accuracy_drop"]
    verdict = -complement.direction
    said = {
        1: f"Range masking costs the other concepts {_size(complement, -1)} less",
        -1: f"Against the paper's claim, range masking costs the other concepts {_size(complement)} more",
        0: f"Whether range masking spares the other concepts is open: the cost to them differs by {_size(complement, sign=True)}",
    }[verdict]
    text = f"{said}, compared with masking the same neurons whole. {_beside(target)}"
    return verdict, text


def _confidence(part: Comparison) -> tuple[int, str]:
    effect = part.effects["complement_confidence_drop"]
    verdict = -effect.direction
    said = {
        1: f"costs the other concepts' right answers {_size(effect, -1)} less confidence",
        -1: f"costs the other concepts' right answers {_size(effect)} more confidence",
        0: f"is not shown to cost the other concepts more or less confidence: the cost differs by {_size(effect, sign=True)}",
    }[verdict]
    target = part.effects["target_confidence_drop"]
    return verdict, (
        f"Compared with masking the same neurons whole, range masking {said}; on the target the cost differs by "
        f"{_size(target, sign=True)}."
    )


def _text(part: Comparison) -> tuple[int, str]:
    effect = part.effects["log_perplexity"]
    verdict = -effect.direction
    ends = [None if end is None else math.exp(end) for end in (effect.low, effect.high)]
    between = "" if None in ends else f" [{significant(ends[0])}, {significant(ends[1])}]"
    said = {1: "lower", -1: "higher", 0: "not shown to be lower or higher"}[verdict]
    return verdict, (
        f"Perplexity on ordinary text is {said} than under masking the same neurons whole: "
        f"{significant(math.exp(effect.mean))} times{between}{_untested(effect)}."
    )


def _selective(part: Comparison) -> tuple[int, str]:
    effect = part.effects["selectivity"]
    verdict = effect.direction
    said = {
        1: f"more selective, by {_size(effect)}",
        -1: f"less selective, by {_size(effect, -1)}",
        0: f"neither shown to be the more nor the less selective: it differs by {_size(effect, sign=True)}",
    }[verdict]
    return verdict, f"Compared with masking the same neurons whole, range masking is {said}."


def _control(part: Comparison) -> tuple[int, str]:
    effect, target = part.effects["selectivity"], part.effects["target_accuracy_drop"]
    verdict = effect.direction
    said = {
        1: f"Ranges of the chosen neurons are more selective than those of as many random neurons, by {_size(effect)}",
        -1: f"Ranges of the chosen neurons are less selective than those of as many random neurons, by {_size(effect, -1)}",
        0: f"The chosen neurons cannot be told from random ones by selectivity: they differ by {_size(effect, sign=True)}",
    }[verdict]
    return verdict, f"{said}; the drop on the target differs by {_size(target, sign=True)}."


def _beside(target: Effect) -> str:
    """How much the methods take from the target: less damage elsewhere is no merit of a method that simply does less."""
    return {
        -1: f"It also takes {_size(target, -1)} less from the target, so some of any difference is simply that it does less.",
        1: f"It takes {_size(target)} more from the target.",
        0: f"What it takes from the target differs by {_size(target, sign=True)}; a method that does less damages less, so judge by "
        "selectivity.",
    }[target.direction]


def _size(effect: Effect, factor: int = 1, *, sign: bool = False) -> str:
    """A mean in percentage points with its interval; factor -1 turns a drop into a gain."""
    ends = [None if end is None else factor * end for end in (effect.low, effect.high)]
    low, high = ends if factor > 0 else ends[::-1]
    between = points_between(low, high)
    return f"{points(factor * effect.mean, sign=sign)} points" + (f" {between}" if between else "") + _untested(effect)


def _untested(effect: Effect) -> str:
    """Why an effect is not decided although its interval is clear of zero."""
    if effect.direction or effect.low is None or effect.high is None or effect.low <= 0 <= effect.high:
        return ""
    return f" (sign-flip p = {significant(effect.p, 2)})"


def _belongs(part: Comparison, setting: Setting) -> bool:
    return (part.saliency, part.top, part.tau, part.operator, part.positions) == (
        setting.saliency,
        setting.top,
        setting.tau,
        setting.operator,
        setting.positions,
    )
