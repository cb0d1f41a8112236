"""What the statistics of all neurons cost beside a loop over neurons that asks SciPy and NumPy for the same, on normal and skewed neurons;
and what the ranges of a default audit cost beside these.

Left out of the comparison are p-values that SciPy defines in another way: its Kolmogorov-Smirnov test takes mean and std as known, and its
Anderson-Darling test gives critical values, not a p-value. Statistics of the other concepts' rows, which the pass gives as well, are left
out of the loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy.stats

from benchmarks.measure import Ratio, interleave
from neuronlens.activations.store import Activations, Floats
from neuronlens.config import Config
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.overlap import bhattacharyya, histogram_overlap
from neuronlens.ranges.statistics import QUANTILES, SiteStatistics, fit_statistics
from neuronlens.sites import Site
from neuronlens.streaming.histogram import BINS

SITE = Site(0, "resid_post")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """How many there are of what; `sampled` are the neurons that the loop is run on."""

    concepts: int = 14
    rows: int = 400
    neurons: int = 768
    sampled: int = 8


@dataclass(frozen=True)
class Statistics:
    """Of C concepts and D neurons, as both ways give them.

    Attributes:
        numbers: name -> [C, D].
        quantiles: [C, Q, D].
        histogram: [C, BINS, D] counts.
        overlaps: name -> [P, D], float32 as they are stored.
    """

    numbers: dict[str, Array]
    quantiles: Array
    histogram: npt.NDArray[np.int32]
    overlaps: dict[str, Floats]


def run(size: Size | None = None) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    size = Size() if size is None else size
    rows = activations(size)
    ours = vectorised(rows)
    some = np.linspace(0, size.neurons - 1, size.sampled).astype(int)
    parts = [part[some] for part in ours[0].values]
    edges = np.linspace(ours[0].low[some], ours[0].high[some], BINS + 1, axis=1)
    check(ours[1], by_scipy(parts, edges), some)
    title = (
        f"statistics and overlaps of {size.neurons} neurons, {size.concepts} concepts of {size.rows} rows, over a loop of SciPy calls "
        f"(run on {size.sampled} neurons and scaled)"
    )
    yield (
        title,
        interleave(
            lambda: by_scipy(parts, edges),
            {"one vectorised pass": lambda: vectorised(rows)},
            share=size.sampled / size.neurons,
        ),
    )
    config = Config()
    count = len(sweep_ranges(fit_statistics(rows, SITE), config))
    yield (
        f"{count:,} sets of ranges of a default audit, with controls, gates and doses, over the statistics of the same rows",
        interleave(
            lambda: fit_statistics(rows, SITE),
            {"rows in order once a concept": lambda: sweep_ranges(fit_statistics(rows, SITE), config)},
        ),
    )


def activations(size: Size) -> Activations:
    """Rows of all concepts in a random order, in neurons with means and widths of their own; every fifth is skewed, one has mean 2000."""
    generator = np.random.default_rng(0)
    count = size.concepts * size.rows
    concept = [f"concept {i:02d}" for i in generator.permutation(count) // size.rows]
    values = generator.normal(size=(size.neurons, count))
    values[::5] = np.exp(values[::5])
    values *= generator.uniform(0.1, 2, (size.neurons, 1))
    values += 3 * generator.normal(size=(size.neurons, 1))
    values[0] = 2000 + 0.5 * generator.normal(size=count)
    return Activations(
        {SITE: values.astype(np.float32)},
        row=np.arange(count),
        concept=concept,
        split=["fit"] * count,
        position=np.zeros(count, dtype=np.int64),
        tokens=np.ones(count, dtype=np.int64),
        predicted=concept,
        correct=np.ones(count, dtype=bool),
        confidence=np.ones(count, dtype=np.float32),
    )


def vectorised(rows: Activations, site: Site = SITE) -> tuple[SiteStatistics, Statistics]:
    """As the stage `fit` does it."""
    found = fit_statistics(rows, site)
    numbers = {
        "n": [np.full(found.width, part.n) for part in found.moments],
        "mean": [part.mean for part in found.moments],
        "std": [part.std for part in found.moments],
        "mean_abs": [part.mean_abs for part in found.moments],
        "min": [part.minimum for part in found.moments],
        "max": [part.maximum for part in found.moments],
        "skewness": [part.skewness for part in found.moments],
        "kurtosis": [part.kurtosis for part in found.moments],
        "jarque_bera_p": [part.jarque_bera for part in found.moments],
        "kolmogorov_smirnov": [tests.ks for tests in found.normality],
        "anderson_darling": [tests.ad for tests in found.normality],
    }
    overlaps = {
        "histogram_overlap": histogram_overlap(found.histogram),
        "bhattacharyya": bhattacharyya(found.moments),
    }
    stacked = {name: np.stack(columns) for name, columns in numbers.items()}
    return found, Statistics(stacked, found.quantiles, found.histogram, overlaps)


def by_scipy(values: Sequence[Floats], edges: Array) -> Statistics:
    """The same, one neuron and concept after the other.

    Args:
        values: [C] arrays [D, n_c].
        edges: [D, BINS + 1] of each neuron's histograms.
    """
    concepts, neurons = len(values), len(edges)
    numbers: dict[str, Array] = {}
    quantiles = np.empty((concepts, len(QUANTILES), neurons))
    histogram = np.empty((concepts, BINS, neurons), dtype=np.int32)
    pairs = list(combinations(range(concepts), 2))
    overlaps = {
        name: np.empty((len(pairs), neurons), dtype=np.float32) for name in ("histogram_overlap", "bhattacharyya")
    }
    for neuron in range(neurons):
        for concept, part in enumerate(values):
            row = part[neuron].astype(np.float64)
            for name, number in _numbers(row).items():
                numbers.setdefault(name, np.empty((concepts, neurons)))[concept, neuron] = number
            quantiles[concept, :, neuron] = np.quantile(row, QUANTILES)
            histogram[concept, :, neuron] = np.histogram(row, edges[neuron])[0]
        mean, std, n = (numbers[name][:, neuron] for name in ("mean", "std", "n"))
        shares = histogram[:, :, neuron] / n[:, None]
        for at, (a, b) in enumerate(pairs):
            overlaps["histogram_overlap"][at, neuron] = np.minimum(shares[a], shares[b]).sum()
            variance = std[a] ** 2 + std[b] ** 2
            gap = (mean[a] - mean[b]) ** 2 / variance
            overlaps["bhattacharyya"][at, neuron] = np.sqrt(2 * std[a] * std[b] / variance) * np.exp(-gap / 4)
    return Statistics(numbers, quantiles, histogram, overlaps)


def _numbers(row: Array) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how anderson will give p-values
        anderson = scipy.stats.anderson(row, "norm").statistic
    return {
        "n": len(row),
        "mean": np.mean(row),
        "std": np.std(row),
        "mean_abs": np.mean(np.abs(row)),
        "min": np.min(row),
        "max": np.max(row),
        "skewness": scipy.stats.skew(row),
        "kurtosis": scipy.stats.kurtosis(row),
        "jarque_bera_p": scipy.stats.jarque_bera(row).pvalue,
        "kolmogorov_smirnov": scipy.stats.kstest(row, "norm", args=(np.mean(row), np.std(row, ddof=1))).statistic,
        "anderson_darling": anderson,
    }


def check(ours: Statistics, expected: Statistics, neurons: npt.NDArray[np.int64]) -> None:
    """Raise AssertionError unless both agree on some neurons: to 1e-10, overlaps to the float32 they are stored in."""
    for name, numbers in expected.numbers.items():
        np.testing.assert_allclose(ours.numbers[name][:, neurons], numbers, rtol=1e-10, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(ours.quantiles[:, :, neurons], expected.quantiles, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(ours.histogram[:, :, neurons], expected.histogram)
    for name, overlap in expected.overlaps.items():
        np.testing.assert_allclose(ours.overlaps[name][:, neurons], overlap, rtol=1e-6, atol=1e-7, err_msg=name)
