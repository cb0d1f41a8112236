"""LEACE: the least change of all activations that leaves no linear trace of a concept (Belrose et al. 2023, arXiv 2306.03819, theorem 4.3).

It sees every coordinate of a site and rotates freely, so it is an upper reference for what single neurons and ranges can do linearly. It
erases what a linear probe could read at the position it was fitted on; what later layers compute from the rest is another matter.

For a concept's indicator z the whitened projection has rank one and a closed form without any matrix root: with s = cov(x, z) and b the
least-norm regression of z on x, b = pinv(cov(x, x)) s, it is r(x) = x - s (b . (x - mean)) / (b . s), and
cov(r(x), z) = s - s (b . s) / (b . s) = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from neuronlens.artifact import read_table, write_table
from neuronlens.ranges.statistics import SiteStatistics
from neuronlens.sites import Site
from neuronlens.streaming.moments import Array

_LEAST_EXPLAINED = (
    1e-12  # less is rounding, and scaling it to 1 would blow it up: a concept without a linear trace is left alone
)


@dataclass(frozen=True)
class Erasure:
    """x -> x - direction * (probe . (x - mean)).

    Attributes:
        site, concept: where and what.
        direction: [D] along which activations move.
        probe: [D] least-squares probe of the concept, scaled so that probe . direction = 1.
        mean: [D] of all fit rows.
    """

    site: Site
    concept: str
    direction: Array
    probe: Array
    mean: Array


def fit_erasures(statistics: SiteStatistics) -> list[Erasure]:
    """One erasure per concept, from the fit rows; one least-squares problem for all concepts.

    With fewer rows than neurons the regression interpolates, and the erasure is exact on the fit rows only.
    """
    from scipy.linalg import lstsq

    statistics.need_rows("the control leace")
    rows = np.concatenate(statistics.values, axis=1).T.astype(np.float64)
    concept = np.repeat(np.arange(len(statistics.concepts)), [part.shape[1] for part in statistics.values])
    mean = rows.mean(axis=0)
    rows -= mean
    indicator = (concept[:, None] == np.arange(len(statistics.concepts))).astype(np.float64)
    indicator -= indicator.mean(axis=0)
    # activations are float32, so directions with less than a hundred-thousandth of the largest spread are rounding, and would be blown up
    probes = lstsq(rows, indicator, cond=1e-5, lapack_driver="gelsd")[0]
    directions = rows.T @ indicator / len(rows)
    found = []
    for i, name in enumerate(statistics.concepts):
        scale = float(probes[:, i] @ directions[:, i])  # what the probe explains of the indicator's variance
        traced = scale > _LEAST_EXPLAINED * float(np.mean(indicator[:, i] ** 2))
        probe = probes[:, i] / scale if traced else np.zeros_like(mean)
        found.append(Erasure(statistics.site, name, directions[:, i], probe, mean))
    return found


def write_erasures(file: Path, found: Sequence[Erasure]) -> None:
    """The artifact leace.parquet: one row per site, concept and neuron."""
    tables = []
    for part in found:
        count = len(part.mean)
        columns = {
            "site": pa.array([str(part.site)] * count),
            "concept": pa.array([part.concept] * count),
            "neuron": np.arange(count, dtype=np.int32),
            "direction": part.direction,
            "probe": part.probe,
            "mean": part.mean,
        }
        tables.append(pa.table(columns))
    write_table(file, pa.concat_tables(tables))


def read_erasures(file: Path) -> list[Erasure]:
    """What `write_erasures` wrote."""
    table = read_table(file)
    keys = list(zip(table["site"].to_pylist(), table["concept"].to_pylist(), strict=True))
    edges = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]] + [len(keys)]
    found = []
    for start, end in pairwise(edges):
        site, concept = keys[start]
        part = table.slice(start, end - start)
        numbers = (part[name].to_numpy() for name in ("direction", "probe", "mean"))
        found.append(Erasure(Site.parse(site), concept, *numbers))
    return found
