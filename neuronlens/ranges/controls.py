"""The controls: ranges that differ from a method's in one thing, the neurons, the places or the concept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from neuronlens.activations.store import Floats
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.selection import Ranges, assemble, bounds, identity_of, method_label
from neuronlens.ranges.statistics import Ints, SiteStatistics
from neuronlens.streaming.moments import Array

_PLACES = 256  # tried for a control's interval


def controls_of(
    statistics: SiteStatistics, ranges: Ranges, asked: Sequence[str], known: Mapping[tuple[str, str], Ranges]
) -> Iterator[Ranges]:
    """The controls of a method that are asked for and differ from it."""
    # where all neurons are edited there are no others to draw, and another place for a range that is everywhere is the same range
    if "random_neurons" in asked and len(ranges.neurons) < statistics.width:
        yield random_neurons(statistics, ranges)
    if "random_ranges" in asked and ranges.kind != "full":
        yield random_ranges(statistics, ranges)
    if "other_concept" in asked:
        yield other_concept(ranges, statistics.concepts, known)


def random_neurons(statistics: SiteStatistics, ranges: Ranges) -> Ranges:
    """Control: as many neurons chosen by chance, with ranges of the same width in their own standard deviations and a gate of their own."""
    neurons = top_set(statistics.saliency("random", ranges.concept), ranges.top)
    if ranges.kind == "discriminative":
        own = statistics.moments[statistics.index(ranges.concept)]
        lower, upper = (
            _carried(edge, ranges, own.mean[neurons], own.std[neurons]) for edge in (ranges.lower, ranges.upper)
        )
    else:
        lower, upper = bounds(statistics, ranges.concept, neurons, ranges.kind, ranges.tau, None)
    identity = identity_of(ranges) | {"saliency": "random", "kind": "random_neurons", "base": ranges.label}
    return assemble(statistics, ranges.concept, identity, neurons, lower, upper)


def random_ranges(statistics: SiteStatistics, ranges: Ranges) -> Ranges:
    """Control: the same neurons, each with one interval at a place drawn by chance that holds as many of all fit rows as its range edits.

    Where rows share values (a rectified neuron at 0), nearly as many. There is no gate: what a gated range edits after the gate is the dose
    that the interval matches.
    """
    statistics.need_rows("the control random_ranges")
    rows, own = statistics.all_ordered.shape[1], statistics.moments[statistics.index(ranges.concept)].n
    dose = (ranges.dose_target * own + ranges.dose_complement * (rows - own)) / rows
    # the same lots for a method, whether it is part of the sweep or a candidate
    drawn_for = sorted((name, value) for name, value in identity_of(ranges).items() if name != "role")
    draw = statistics.draw(ranges.concept, "random_ranges", drawn_for)
    count = np.rint(dose * rows).astype(np.int64)
    lower, upper = (edge[:, None] for edge in _placed(statistics.all_ordered, ranges.neurons, count, draw))
    identity = identity_of(ranges) | {"kind": "random_ranges", "base": ranges.label, "gate": "none"}
    return assemble(statistics, ranges.concept, identity, ranges.neurons, lower, upper)


def other_concept(ranges: Ranges, concepts: Sequence[str], found: Mapping[tuple[str, str], Ranges]) -> Ranges:
    """Control: the ranges of the concept that follows in alphabetical order (the first after the last), measured on this one.

    Args:
        found: (concept, label of the method) -> ranges of all concepts.
    """
    following = concepts[(concepts.index(ranges.concept) + 1) % len(concepts)]
    theirs = found[following, method_label(ranges)]
    return replace(
        theirs,
        concept=ranges.concept,
        kind="other_concept",
        base=ranges.label,
        # shares of rows of this concept are not what the other concept's ranges were fitted on
        dose_target=np.full(len(theirs.neurons), np.nan),
        dose_complement=np.full(len(theirs.neurons), np.nan),
        dose_ordinary=np.full(len(theirs.neurons), np.nan),
    )


def _placed(ordered: Floats, neurons: Ints, count: Ints, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """[K] bounds of an interval at a place drawn by chance that holds `count` [K] of some neurons' sorted rows [D, n]; [inf, -inf] for
    none of them.

    An interval holds all or none of the rows that share a value: of several places drawn, the first that comes nearest to `count` rows.
    """
    rows, least = ordered.shape[1], np.maximum(count, 1)
    first = np.floor(draw.random((len(neurons), _PLACES)) * (rows - least + 1)[:, None]).astype(np.int64)
    start, end = first[:, 0], first[:, 0] + least - 1
    # the first place holds no more, and so is nearest, unless a row beside it, or for want of one that at the other end, shares a value
    before = ordered[neurons, start - 1] == ordered[neurons, start]
    behind = ordered[neurons, (end + 1) % rows] == ordered[neurons, end]
    more = before | behind
    start = start.copy()
    start[more] = _nearest(ordered[neurons[more]], first[more], least[more])
    held, nowhere = count > 0, np.float32(np.inf)
    lower, upper = ordered[neurons, start], ordered[neurons, start + least - 1]
    return np.where(held, lower, nowhere), np.where(held, upper, -nowhere)


def _nearest(ordered: Floats, first: Ints, least: Ints) -> Ints:
    """[K] of the rows [K, P] the one that, with those behind it up to `least` [K] and all that share a value with one of them, makes the
    fewest of the sorted rows [K, n]."""
    import torch

    lower, upper = (np.take_along_axis(ordered, place, axis=1) for place in (first, first + least[:, None] - 1))
    below, upto = (
        np.asarray(torch.searchsorted(torch.from_numpy(ordered), torch.from_numpy(edge), right=right))
        for edge, right in ((lower, False), (upper, True))
    )
    return np.asarray(first[np.arange(len(first)), np.argmin(upto - below, axis=1)])


def _carried(edge: Floats, ranges: Ranges, mean: Array, std: Array) -> Floats:
    """[K, I] edges at as many standard deviations from other neurons' means; what holds nothing still holds nothing."""
    scale, finite = np.where(ranges.std > 0, ranges.std, 1.0), np.isfinite(edge)
    carried = (np.where(finite, edge, 0.0) - ranges.mean[:, None]) / scale[:, None] * std[:, None] + mean[:, None]
    return np.where(finite, carried, edge).astype(np.float32)
