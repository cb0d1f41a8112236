"""Means over concepts, and paired comparisons of methods: what the rows of results.parquet add up to.

Concepts are the unit of everything here: each contributes one number per method, and intervals say what other concepts might have given.
Few concepts allow no resampling, so intervals are Student's, lengthened for skew (`uncertainty.mean`). A comparison is decided only where
an exact sign-flip test agrees, corrected for the number of sites; with fewer than 6 concepts it cannot reach 5 %, whatever the data say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.uncertainty import LEVEL, mean

Array = npt.NDArray[np.float64]
Row = Mapping[str, Any]

IDENTITY = (
    *(
        "site",
        "role",
        "method",
        "saliency",
        "top",
        "range",
        "base",
        "tau",
        "threshold",
        "gate",
        "operator",
        "positions",
    ),
)
MEANS = (
    "target_accuracy_drop",
    "complement_accuracy_drop",
    "target_confidence_drop",
    "complement_confidence_drop",
    "selectivity",
    "confidence_selectivity",
    "dose_target",
    "dose_complement",
)
COMPARED = (
    "target_accuracy_drop",
    "complement_accuracy_drop",
    "target_confidence_drop",
    "complement_confidence_drop",
    "selectivity",
    "log_perplexity",
)
# no mean lies beyond; those that are not named lie between -1 and 1
_LIMITS = {
    "selectivity": (-2.0, 2.0),
    "confidence_selectivity": (-2.0, 2.0),
    "dose_target": (0.0, 1.0),
    "dose_complement": (0.0, 1.0),
}
_EXACT_CONCEPTS = 12  # 2^12 sign patterns; beyond it they are drawn


@dataclass(frozen=True)
class Setting:
    """One choice of everything but the kind of range, fixed before any result is seen.

    Attributes:
        name: `reference`, `contrastive`, or `fallback` where a sweep holds neither.
        saliency, top, tau, operator, positions: as in results.parquet; tau is None where nothing but whole neurons was masked.
    """

    name: str
    saliency: str
    top: float
    tau: float | None
    operator: str
    positions: str


@dataclass(frozen=True)
class Effect:
    """A mean over concepts.

    Attributes:
        mean: over concepts.
        low, high: 95 % interval over concepts; None with a single concept.
        p: two-sided sign-flip test of the mean being 0, corrected over sites (Benjamini-Hochberg) once `corrected` has seen it.
    """

    mean: float
    low: float | None
    high: float | None
    p: float

    @property
    def direction(self) -> int:
        """1 or -1 where the mean is clear of zero by interval and by test, else 0: not decided."""
        if self.low is None or self.high is None or self.p > 1 - LEVEL:
            return 0
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """Range masking minus another method at the same setting and site, paired over concepts.

    Attributes:
        site, saliency, top, tau, operator, positions: of range masking.
        other: method that is subtracted; None where the effect itself, against the unedited model, is measured.
        concepts: number of concepts in the pairs.
        effects: name in `COMPARED` -> mean difference. Drops and selectivity in shares, log_perplexity in nats; it is missing
            where no perplexity was measured.
    """

    site: str
    saliency: str
    top: float
    tau: float
    operator: str
    positions: str
    other: str | None
    concepts: int
    effects: Mapping[str, Effect]


def summarise(results: Iterable[Row]) -> list[dict[str, Any]]:
    """Means over concepts of every (site, method), in the order of first appearance.

    Args:
        results: rows of results.parquet or chosen.parquet.

    Returns:
        Per row the identity columns (None where concepts differ, as they do in what the validation rows chose), `concepts` (their number),
        each name of `MEANS` with `_low` and `_high`, `perplexity`, `base_perplexity` and `perplexity_ratio` (geometric means over concepts;
        the ratio with interval). None where nothing was measured, and for intervals over a single concept.
    """
    rows = []
    for methods, concepts in _same_concepts(_by_method(results)):
        measured = [_measured(method) for method in methods]
        names = sorted(set().union(*measured))
        series = [(i, name) for i, found in enumerate(measured) for name in names if name in found]
        values = np.array([measured[i][name] for i, name in series])
        effects = dict(zip(series, _effects(values), strict=True))
        for i, method in enumerate(methods):
            row = {name: _common(method, name) for name in IDENTITY} | {"concepts": len(concepts)}
            for name in MEANS:
                effect = effects.get((i, name))
                row |= _spread(name, effect and _within(effect, *_LIMITS.get(name, (-1.0, 1.0))))
            ratio = effects.get((i, "log_perplexity"))
            row |= _spread("perplexity_ratio", ratio and _exponential(ratio))
            base = method[0]["base_perplexity"]
            row["base_perplexity"] = _finite(base)
            row["perplexity"] = None if ratio is None else _finite(float(base * np.exp(ratio.mean)))
            rows.append(row)
    return rows


def choose_settings(results: pa.Table) -> tuple[Setting, ...]:
    """The settings that findings speak of, by a rule that never looks at a measurement.

    `reference`: mean |a|, 30 % of the neurons, mean +- 2 std, set to zero (the reference code's defaults). `contrastive`: the same, with
    neurons ranked by d'. A value that is not in the sweep is replaced by the nearest one (the smaller of two), an operator by the first in
    alphabetical order; a saliency that is not there takes its setting with it. Where neither is there, the first saliency stands in.
    """
    rows = [row for row in results.to_pylist() if row["role"] == "sweep"]
    chosen = [row for row in rows if row["range"] == "gaussian"] or [row for row in rows if row["range"] == "full"]
    saliencies = sorted({row["saliency"] for row in chosen})
    wanted = [
        (name, saliency)
        for name, saliency in (("reference", "mean_abs"), ("contrastive", "d_prime"))
        if saliency in saliencies
    ]
    settings = []
    for name, saliency in wanted or [("fallback", saliency) for saliency in saliencies[:1]]:
        own = [row for row in chosen if row["saliency"] == saliency]
        taus = {row["tau"] for row in own} - {None}
        operators = sorted({row["operator"] for row in own})
        settings.append(
            Setting(
                name,
                saliency,
                _nearest(0.3, {row["top"] for row in own}),
                _nearest(2.0, taus) if taus else None,
                "zero" if "zero" in operators else operators[0],
                own[0]["positions"],
            )
        )
    return tuple(settings)


def compare_with_unedited(results: pa.Table, seed: int) -> list[Comparison]:
    """The effect of every range masking itself: its drops against the unedited model."""
    return _compare(results, None, seed)


def compare_with_whole_neuron(results: pa.Table, seed: int) -> list[Comparison]:
    """Range masking against masking the same neurons whole (the paper's comparison), at every setting and site that holds both.

    Less damage alone does not speak for ranges, since a method that does less does less damage: read the difference in complement drop
    beside the one in target drop, or take selectivity.
    """
    return _compare(results, lambda row: {**row, "range": "full", "base": "full", "tau": None}, seed)


def compare_with_random_neurons(results: pa.Table, seed: int) -> list[Comparison]:
    """Range masking against ranges of the same width on as many neurons chosen at random."""
    return _compare(results, lambda row: {**row, "range": "random_neurons", "saliency": "random"}, seed)


def sign_flip_p(values: Array, seed: int) -> Array:
    """Two-sided p values of the means being 0, when each concept's sign could as well have been the other (Fisher's randomisation test).

    Exact up to 12 concepts, with 4,096 drawn sign patterns beyond.

    Args:
        values: [M, C] paired differences.
        seed: decides the drawn patterns.

    Returns:
        [M].
    """
    concepts = values.shape[1]
    if concepts <= _EXACT_CONCEPTS:
        signs = np.array(list(product((1.0, -1.0), repeat=concepts)))
    else:
        signs = np.random.default_rng([seed, concepts]).choice((1.0, -1.0), size=(1 << _EXACT_CONCEPTS, concepts))
        signs[0] = 1.0  # the observed pattern is one of the possible ones, so p is never 0
    sums = np.abs(values @ signs.T)
    tolerance = 1e-12 * np.abs(values).sum(axis=1)  # sums that are equal but for rounding count as equal
    reached: Array = (sums >= (np.abs(values.sum(axis=1)) - tolerance)[:, None]).mean(axis=1)
    return reached


def _compare(results: pa.Table, other: Callable[[Row], Row] | None, seed: int) -> list[Comparison]:
    """Every range masking against the method whose identity `other` makes of its own; against the unedited model where that is None."""
    methods = {_key(method[0]): method for method in _by_method(results.to_pylist())}
    pairs: list[tuple[list[Row], list[Row] | None]] = []
    for method in methods.values():
        if (method[0]["range"], method[0]["role"]) == ("gaussian", "sweep"):
            against = other and methods.get(_key(other(method[0])))
            if against or other is None:
                pairs.append((method, against))
    found: list[Comparison] = []
    for method, against in pairs:
        own, base = _measured(method), _measured(against) if against else {}
        names = [name for name in COMPARED if name in own and (against is None or name in base)]
        differences = np.array([own[name] - base[name] if against else own[name] for name in names])
        effects = _effects(differences, seed)
        row = method[0]
        found.append(
            Comparison(
                row["site"],
                row["saliency"],
                row["top"],
                row["tau"],
                row["operator"],
                row["positions"],
                against[0]["method"] if against else None,
                len(method),
                dict(zip(names, effects, strict=True)),
            )
        )
    return _corrected(found)


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p values corrected over the sites of each setting and effect (Benjamini-Hochberg)."""
    from scipy.stats import false_discovery_control

    families: dict[tuple[Any, ...], list[int]] = {}
    for i, part in enumerate(found):
        for name in part.effects:
            families.setdefault((part.saliency, part.top, part.tau, part.operator, part.positions, name), []).append(i)
    effects = [dict(part.effects) for part in found]
    for (*_, name), members in families.items():
        corrected = false_discovery_control([effects[i][name].p for i in members])
        for i, p in zip(members, corrected, strict=True):
            effects[i][name] = replace(effects[i][name], p=float(p))
    return [replace(part, effects=own) for part, own in zip(found, effects, strict=True)]


def _effects(values: Array, seed: int | None = None) -> list[Effect]:
    """One effect per series of values [M, C]; p is 1 where no seed asks for a test."""
    means = values.mean(axis=1)
    p = np.ones(len(values)) if seed is None else sign_flip_p(values, seed)
    if values.shape[1] < 2:
        return [Effect(float(average), None, None, float(one)) for average, one in zip(means, p, strict=True)]
    _, low, high = mean(values)
    return [Effect(*(float(part) for part in parts)) for parts in zip(means, low, high, p, strict=True)]


def _by_method(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each (site, role, method), ordered by concept, so that two methods pair up place by place."""
    methods: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        methods.setdefault((row["site"], row["role"], row["method"]), []).append(row)
    return [sorted(method, key=lambda row: str(row["concept"])) for method in methods.values()]


def _same_concepts(methods: Sequence[list[Row]]) -> list[tuple[list[list[Row]], tuple[str, ...]]]:
    """Runs of methods that were measured on the same concepts, so that one set of draws serves them all."""
    return [
        (list(run), concepts)
        for concepts, run in groupby(methods, key=lambda method: tuple(str(row["concept"]) for row in method))
    ]


def _measured(method: Sequence[Row]) -> dict[str, Array]:
    """name -> [C] values of a method, for what was measured on every concept."""
    found = {name: [row[name] for row in method] for name in MEANS}
    found["log_perplexity"] = [_log_ratio(row["perplexity"], row["base_perplexity"]) for row in method]
    return {
        name: np.array(values, dtype=np.float64)
        for name, values in found.items()
        if all(_finite(value) is not None for value in values)
    }


def _common(method: Sequence[Row], name: str) -> Any:
    values = {row[name] for row in method}
    return values.pop() if len(values) == 1 else None


def _log_ratio(edited: float | None, base: float | None) -> float | None:
    if _finite(edited) is None or _finite(base) is None or not edited or not base:
        return None
    return math.log(edited / base)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in IDENTITY if name != "method")


def _spread(name: str, effect: Effect | None) -> dict[str, float | None]:
    parts = (effect.mean, effect.low, effect.high) if effect else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def _within(effect: Effect, least: float, most: float) -> Effect:
    low, high = (None if end is None else min(max(end, least), most) for end in (effect.low, effect.high))
    return replace(effect, low=low, high=high)


def _exponential(effect: Effect) -> Effect:
    low, high = (None if bound is None else math.exp(bound) for bound in (effect.low, effect.high))
    return Effect(math.exp(effect.mean), low, high, effect.p)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _nearest(wanted: float, known: Iterable[float]) -> float:
    return min(sorted(known), key=lambda value: abs(value - wanted))
