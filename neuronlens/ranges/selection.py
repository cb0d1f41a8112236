"""The selection: a concept's top neurons and their ranges, with what each range holds of the fit rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuronlens.activations.store import Floats
from neuronlens.ranges.agreement import Agreement, Flags, fit_agreement
from neuronlens.ranges.quantiles import sorted_quantiles
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.statistics import Ints, SiteStatistics
from neuronlens.sites import Site
from neuronlens.streaming.moments import Array
from neuronlens.values import WIDTHS, Gate, RangeKind, Saliency


@dataclass(frozen=True)
class Ranges:
    """The selected neurons of one method for one concept.

    Attributes:
        site, concept: where and what.
        saliency, top: how neurons were ranked, and the share taken.
        kind: of range, `gaussian`, `quantile`, `discriminative`, `full`, or a control: `random_neurons`, `random_ranges`, `other_concept`.
        base: what a control mirrors, a kind of range with its gate (`gaussian+agreement`); `kind` itself otherwise.
        tau: half-width in standard deviations, None where the kind has none.
        threshold: ratio of densities of discriminative ranges, else None.
        gate: `none`, or `agreement` where a token is edited only if the neurons agree.
        role: `sweep`, or `tuned` where it is a candidate of the tuned method or the control of one.
        neurons: [K] in order of saliency.
        lower, upper: [K, I] float32, closed intervals; [inf, -inf] holds nothing.
        dose_target, dose_complement: [K] share of fit rows edited, of the concept and of the others.
        dose_ordinary: [K] share of ordinary tokens edited, NaN where none were read.
        mean, std: [K] of the concept's fit rows. complement_mean, complement_std: of all others'. pooled_mean: of both together.
        agreement: the gate, None without one.
    """

    site: Site
    concept: str
    saliency: str
    top: float
    kind: str
    base: str
    tau: float | None
    threshold: float | None
    gate: str
    role: str
    neurons: Ints
    lower: Floats
    upper: Floats
    dose_target: Array
    dose_complement: Array
    dose_ordinary: Array
    mean: Array
    std: Array
    complement_mean: Array
    complement_std: Array
    pooled_mean: Array
    agreement: Agreement | None = None

    @property
    def label(self) -> str:
        """The kind with its gate, which is what a control calls its base."""
        return self.kind if self.gate == "none" else f"{self.kind}+{self.gate}"


def fit_ranges(
    statistics: SiteStatistics,
    concept: str,
    *,
    saliency: Saliency = "d_prime",
    top: float = 0.1,
    kind: RangeKind = "gaussian",
    tau: float | None = 2.5,
    threshold: float | None = 1.0,
    gate: Gate = "none",
    role: str = "sweep",
) -> Ranges:
    """The ranges of a concept's top neurons.

    Args:
        saliency: how neurons are ranked (see `neuronlens.ranges.saliency`).
        top: share of the site's neurons.
        kind: `gaussian`: [mean - tau std, mean + tau std] of the concept's rows (paper, section 4); `quantile`: between the concept's
            quantiles at the same two probabilities of a normal distribution; `discriminative`: where the concept is denser than the
            complement and ordinary tokens; `full`: every value, so that a constant neuron is masked as well.
        tau: half-width in standard deviations; of no effect on `discriminative` and `full`.
        threshold: ratio of densities; of effect on `discriminative` only.
        gate: `agreement` edits a token only where the neurons together say it is the concept.

    Raises:
        SiteError: `top` is less than one neuron.
    """
    neurons = top_set(statistics.saliency(saliency, concept), top)
    tau, threshold = (tau if WIDTHS[kind] == "tau" else None), (threshold if WIDTHS[kind] == "threshold" else None)
    lower, upper = bounds(statistics, concept, neurons, kind, tau, threshold)
    identity: dict[str, Any] = {"saliency": saliency, "top": top, "kind": kind, "base": kind, "tau": tau}
    identity |= {"threshold": threshold, "gate": gate, "role": role}
    return assemble(statistics, concept, identity, neurons, lower, upper)


def bounds(
    statistics: SiteStatistics, concept: str, neurons: Ints, kind: str, tau: float | None, threshold: float | None
) -> tuple[Floats, Floats]:
    """[K, I] float32 bounds of some neurons' ranges."""
    at = statistics.index(concept)
    if kind == "discriminative" and threshold is not None:
        statistics.need_rows("a discriminative range")
        return statistics.densities(concept).take(neurons).bounds(threshold)
    if kind == "full" or tau is None:
        whole = np.full((len(neurons), 1), np.inf, dtype=np.float32)
        return -whole, whole
    if kind == "quantile":
        share = math.erf(tau / math.sqrt(2))
        ends = [(1 - share) / 2, (1 + share) / 2]
        if statistics.distributions:
            lower, upper = statistics.distributions[at].quantiles(ends, neurons)
        else:
            lower, upper = sorted_quantiles(statistics.ordered(concept).own[neurons], ends)
    else:
        mean, std = statistics.moments[at].mean[neurons], statistics.moments[at].std[neurons]
        lower, upper = mean - tau * std, mean + tau * std
    return lower[:, None].astype(np.float32), upper[:, None].astype(np.float32)


def assemble(
    statistics: SiteStatistics,
    concept: str,
    identity: Mapping[str, Any],
    neurons: Ints,
    lower: Floats,
    upper: Floats,
) -> Ranges:
    """Ranges with their gate and doses."""
    at = statistics.index(concept)
    own, rest = statistics.moments[at], statistics.rest[at]
    gated, agreement = identity["gate"] == "agreement", None
    if statistics.distributions:
        if gated:
            statistics.need_rows("the gate on agreement")
        ordinary = _inside(statistics.ordinary.without(concept, neurons), lower, upper)
        dose = [*_estimated(statistics, at, neurons, lower, upper), _share(ordinary)]
    elif not gated and lower.shape[1] == 1:
        dose = statistics.ordered(concept).shares(neurons, lower[:, 0], upper[:, 0])
    else:  # which tokens are inside matters, or several intervals may share a value
        parts = [statistics.values[at][neurons], statistics.complement(concept, neurons)]
        inside = [_inside(part, lower, upper) for part in (*parts, statistics.ordinary.without(concept, neurons))]
        if gated:
            agreement = fit_agreement(*inside)
            inside = [part & agreement.passes(part) for part in inside]
        dose = [_share(part) for part in inside]
    return Ranges(
        statistics.site,
        concept,
        **identity,
        neurons=neurons,
        lower=lower,
        upper=upper,
        dose_target=dose[0],
        dose_complement=dose[1],
        dose_ordinary=dose[2],
        mean=own.mean[neurons],
        std=own.std[neurons],
        complement_mean=rest.mean[neurons],
        complement_std=rest.std[neurons],
        pooled_mean=((own.n * own.mean + rest.n * rest.mean) / (own.n + rest.n))[neurons],
        agreement=agreement,
    )


def identity_of(ranges: Ranges) -> dict[str, Any]:
    """What tells a method from another: how its neurons and ranges were found, not what they are."""
    names = ("saliency", "top", "kind", "base", "tau", "threshold", "gate", "role")
    return {name: getattr(ranges, name) for name in names}


def method_label(ranges: Ranges) -> str:
    """A name of the method, the same for every concept; to look ranges up by."""
    return repr(sorted(identity_of(ranges).items()))


def _estimated(statistics: SiteStatistics, at: int, neurons: Ints, lower: Floats, upper: Floats) -> tuple[Array, Array]:
    """[K] shares of rows of the concept in place `at`, and of all others, that lie in the intervals, from their histograms."""
    shares = np.stack([part.shares(neurons, lower, upper) for part in statistics.distributions])
    weight = np.array([part.n for part in statistics.distributions], dtype=np.float64)
    weight[at] = 0
    return shares[at], weight @ shares / weight.sum()


def _share(inside: Flags) -> Array:
    """[K] of tokens [K, n]; NaN where there are none."""
    return inside.mean(axis=1) if inside.shape[1] else np.full(len(inside), np.nan)


def _inside(values: Floats, lower: Floats, upper: Floats) -> Flags:
    """[K, n] whether values [K, n] lie in one of the intervals [K, I]."""
    inside = np.zeros(values.shape, dtype=bool)
    for i in range(lower.shape[1]):
        inside |= (values >= lower[:, i, None]) & (values <= upper[:, i, None])
    return inside
