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
    ordered = statistics.all_ordered[ranges.neurons]
    rows, own = ordered.shape[1], statistics.moments[statistics.index(ranges.concept)].n
    dose = (ranges.dose_target * own + ranges.dose_complement * (rows - own)) / rows
    # the same lots for a method, whether it is part of the sweep or a candidate
    drawn_for = sorted((name, value) for name, value in identity_of(ranges).items() if name != "role")
    draw = statistics.draw(ranges.concept, "random_ranges", drawn_for)
    lower, upper = (edge[:, None] for edge in _placed(ordered, np.rint(dose * rows).astype(np.int64), draw))
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


def _placed(ordered: Floats, count: Ints, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """[K] bounds of an interval at a place drawn by chance that holds `count` of the sorted rows [K, n]; [inf, -inf] for none of them.

    An interval holds all or none of the rows that share a value: of several places drawn, the first that comes nearest to `count` rows.
    """
    rows, least = ordered.shape[1], np.maximum(count, 1)[:, None]
    first = np.floor(draw.random((len(ordered), _PLACES)) * (rows - least + 1)).astype(np.int64)
    best = np.zeros(
        (len(ordered), 1), dtype=np.int64
    )  # the first place will do, unless a row beside it shares a value with one in it
    at, start, end = np.arange(len(ordered)), first[:, 0], first[:, 0] + least[:, 0] - 1
    shared = ordered[at, start] == ordered[at, np.maximum(start - 1, 0)]
    shared = (shared & (start > 0)) | (
        (ordered[at, end] == ordered[at, np.minimum(end + 1, rows - 1)]) & (end < rows - 1)
    )
    best[shared] = _nearest(ordered[shared], first[shared], least[shared])
    first = np.take_along_axis(first, best, axis=1)
    lower, upper = (np.take_along_axis(ordered, place, axis=1)[:, 0] for place in (first, first + least - 1))
    held, nowhere = count > 0, np.float32(np.inf)
    return np.where(held, lower, nowhere), np.where(held, upper, -nowhere)


def _nearest(ordered: Floats, first: Ints, least: Ints) -> Ints:
    """[K, 1] which of the places [K, P] holds the fewest of the sorted rows [K, n], from that row on `least` [K, 1] and those that share
    a value with one of them."""
    import torch

    lower, upper = (np.take_along_axis(ordered, place, axis=1) for place in (first, first + least - 1))
    below, upto = (
        np.asarray(torch.searchsorted(torch.from_numpy(ordered), torch.from_numpy(edge), right=right))
        for edge, right in ((lower, False), (upper, True))
    )
    return np.asarray(np.argmin(upto - below, axis=1)[:, None])


def _carried(edge: Floats, ranges: Ranges, mean: Array, std: Array) -> Floats:
    """[K, I] edges at as many standard deviations from other neurons' means; what holds nothing still holds nothing."""
    scale, finite = np.where(ranges.std > 0, ranges.std, 1.0), np.isfinite(edge)
    carried = (np.where(finite, edge, 0.0) - ranges.mean[:, None]) / scale[:, None] * std[:, None] + mean[:, None]
    return np.where(finite, carried, edge).astype(np.float32)
