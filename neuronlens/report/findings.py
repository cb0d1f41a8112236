"""Findings: what the numbers show in plain sentences, including that they show nothing.

Each finding is a claim fixed in advance, about a setting fixed in advance (`choose_settings`), at every site. Its verdict is `holds`,
`contradicted` or `not decided`, by `Effect.direction` alone; the sentence never says more than the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from neuronlens.evaluation.summary import Comparison, Effect, Setting
from neuronlens.pages.text import count, points, points_between, significant
from neuronlens.values import Saliency

CLAIMS = {
    "known": "The unedited model tells the concepts apart",
    "effect": "Masking ranges lowers the accuracy on the target concept",
    "spares": "Ranges cost the other concepts less than whole neurons do (the paper's claim)",
    "confidence": "Ranges cost the other concepts less confidence than whole neurons do",
    "text": "Ranges cost ordinary text less than whole neurons do",
    "selective": "Ranges are more selective than whole neurons",
    "control": "The chosen neurons are more selective than random ones",
    "site": "Where a range lies matters here: tuned ranges are more selective than ranges at random places of the same neurons",
    "tuned_control": "Which neurons are tuned matters: they are more selective than as many random ones with a gate of their own",
    "tuned": "At equal target drops, tuned ranges are more selective than the paper's",
    "tuned_confidence": "At equal drops of the target's confidence, tuned ranges cost the others less confidence than the paper's",
    "tuned_text": "At equal target drops, tuned ranges cost ordinary text less than the paper's",
}
# claims that say which of two methods is the better one: where no place is better than a random one there is no winner
_CONTESTS = (
    "spares",
    "confidence",
    "text",
    "selective",
    "control",
    "tuned_control",
    "tuned",
    "tuned_confidence",
    "tuned_text",
)
SALIENCY_WORDS = dict(zip(get_args(Saliency), get_args(Saliency), strict=True)) | {
    "mean_abs": "mean |a|",
    "d_prime": "d'",
    "random": "chance",
}
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
    *,
    contrasts: Sequence[Mapping[str, Any]] = (),
    matched: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """All findings, claim by claim within each setting.

    At a site where ranges at random places do as well as tuned ones nothing is selective, so no method is called better than another there.

    Args:
        base: the unedited model's accuracy, as in audit.json.
        unedited, whole, random: comparisons of range masking with no edit, with whole neurons, with random neurons.
        contrasts, matched: rows of contrasts.parquet and matched.parquet; none where nothing was tuned.
    """
    sites = [_finding("site", None, row["site"], _site(row), row) for row in _against(contrasts, "random_ranges")]
    found = [_known(base), *sites]
    for row in _against(contrasts, "random_neurons"):
        found.append(_finding("tuned_control", None, row["site"], _tuned_control(row), row))
    for claim, measure, effect in (
        ("tuned", "accuracy", "selectivity"),
        ("tuned_confidence", "confidence", "selectivity"),
        ("tuned_text", "accuracy", "log_perplexity"),
    ):
        for site in dict.fromkeys(row["site"] for row in matched):
            rows = [row for row in matched if (row["site"], row["measure"], row["against"]) == (site, measure, "paper")]
            if any(row[effect] is not None for row in rows):
                found.append(_finding(claim, None, site, _matched(rows, measure, effect), {"levels": rows}))
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
                    effects = {name: vars(effect) for name, effect in part.effects.items()} | {
                        "concepts": part.concepts,
                        "against": part.other,
                    }
                    found.append(_finding(claim, setting.name, part.site, (verdict, text), effects))
    flat = {finding.site for finding in sites if finding.verdict != "holds"}
    return [
        _undecided(finding) if finding.site in flat and finding.claim in _CONTESTS else finding for finding in found
    ]


def _finding(claim: str, setting: str | None, site: str, said: tuple[int, str], numbers: Mapping[str, Any]) -> Finding:
    return Finding(claim, setting, site, _VERDICTS[said[0]], said[1], numbers)


def _undecided(finding: Finding) -> Finding:
    sentence = f"No winner is named, since ranges at random places do as well here. {finding.sentence}"
    return replace(finding, verdict=_VERDICTS[0], sentence=sentence)


def _against(contrasts: Sequence[Mapping[str, Any]], control: str) -> list[Mapping[str, Any]]:
    """The contrast in selectivity of the tuned method with one of its controls, at every site."""
    wanted = ("tuned", f"tuned/{control}", "selectivity")
    return [row for row in contrasts if (row["method"], row["against"], row["effect"]) == wanted]


def _tuned_control(row: Mapping[str, Any]) -> tuple[int, str]:
    verdict = int(row["low"] > 0) - int(row["high"] < 0)
    said = {
        1: "Tuned ranges are more selective than those of as many random neurons, by",
        -1: "Ranges of as many random neurons are more selective than tuned ones; the difference is",
        0: "Tuned ranges cannot be told from those of as many random neurons; the difference in selectivity is",
    }[verdict]
    return verdict, f"{said} {points(row['mean'], sign=True)} points {points_between(row['low'], row['high'])}."


def _site(row: Mapping[str, Any]) -> tuple[int, str]:
    """Decided over rows: what other rows of these concepts would have given."""
    verdict = int(row["low"] > 0) - int(row["high"] < 0)
    said = {
        1: "Tuned ranges are more selective than ranges of the same neurons at random places that hold as many rows, by",
        -1: "Ranges of the same neurons at random places are more selective than tuned ones; the difference is",
        0: "Tuned ranges cannot be told from ranges of the same neurons at random places; the difference in selectivity is",
    }[verdict]
    return verdict, f"{said} {points(row['mean'], sign=True)} points {points_between(row['low'], row['high'])}."


def _matched(rows: Sequence[Mapping[str, Any]], measure: str, effect: str) -> tuple[int, str]:
    """Better at every drop that both reach, or worse at one: over rows, and documents where text is what counts."""
    sign = -1 if effect == "log_perplexity" else 1
    known = [row for row in rows if row[effect] is not None]
    ends = [sorted((sign * row[f"{effect}_low"], sign * row[f"{effect}_high"])) for row in known]
    better, worse = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    verdict = 1 if better == len(known) else -1 if worse and not better else 0
    levels = ", ".join(f"{points(row['target_drop'])} ({_level(row, effect)})" for row in known)
    reach = (
        max(row["target_drop"] for row in rows if row["method_reaches"])
        if any(row["method_reaches"] for row in rows)
        else 0.0
    )
    theirs = max((row["target_drop"] for row in rows if row["other_reaches"]), default=0.0)
    what = "confidence" if measure == "confidence" else "accuracy"
    return verdict, (
        f"Better at {better} and worse at {worse} of the {count(len(known), 'target drop')} that both reach, in points of {what}: "
        f"{levels}. "
        f"The largest drop that is reached in some concept is {points(reach)} by tuned ranges and {points(theirs)} by the paper's."
    )


def _level(row: Mapping[str, Any], effect: str) -> str:
    value, low, high = (row[f"{effect}{end}"] for end in ("", "_low", "_high"))
    if effect == "log_perplexity":
        ratio, least, most = (significant(math.exp(end)) for end in (value, low, high))
        return f"{ratio} times the perplexity [{least}, {most}]"
    return f"{points(value, sign=True)} {points_between(low, high)}"


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
