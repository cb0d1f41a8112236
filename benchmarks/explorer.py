"""What the neuron explorer of a large audit weighs, and how long a reader waits for it: each over the most that it may be.

The audit is as large as one of all blocks of GPT-2 small with 20 concepts. Its statistics are drawn, each number on its own, so nothing in
them repeats and they compress as badly as any; the rest of the page is that of an audit made by hand.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks.browser import started
from benchmarks.measure import Ratio
from neuronlens.report.document import audit_document
from neuronlens.report.explorer.embedded import MEASURED, explorer
from neuronlens.report.page import html
from neuronlens.streaming.histogram import BINS
from tests.report.artifacts import config, make_audit, results_table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE, READY, FILTER = 5_000_000, 1.0, 0.05
"""At most: bytes of the page, seconds until the explorer is there, seconds of a filter."""
ROWS = 60
"""Fit rows of a concept."""

_FILTERS = """() => {
    const control = (name) => document.getElementById(`explorer-${name}`);
    const change = ([name, value]) => {
        const start = performance.now();
        control(name).value = value;
        control(name).dispatchEvent(new Event("input"));
        document.body.offsetHeight; // lays out what has changed
        return (performance.now() - start) / 1000;
    };
    const second = (name) => control(name).options[1].value;
    return [["q", "c"], ["q", "concept 1"], ["q", "post.1"], ["q", "17"], ["q", "resid_post.1:3"], ["q", ""], ["min", "1"],
        ["concept", second("concept")], ["site", second("site")], ["by", "255"], ["min", ""], ["concept", ""], ["site", ""], ["by", ""]]
        .map(change);
}"""


@dataclass(frozen=True)
class Size:
    """How many there are of what."""

    sites: int = 12
    neurons: int = 768
    concepts: int = 20
    rounds: int = 7


def run(size: Size | None = None, chromium: Browser | None = None) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark.

    Args:
        chromium: where it runs already.
    """
    size = Size() if size is None else size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(page(Path(folder) / "audit", size), encoding="utf-8")
        weight = file.stat().st_size / PAGE
        with started() if chromium is None else nullcontext(chromium) as running:
            ready, filters = waiting(running, file, size.rounds)
    rows = size.sites * size.neurons * size.concepts
    yield (
        f"Neuron explorer: {rows:,} rows, over the most that a page may take",
        [
            Ratio("bytes of the whole page, over 5 MB", weight, weight, weight),
            _over("until the explorer is there, over 1 s", ready, READY),
            _over("a filter, over 50 ms", filters, FILTER),
        ],
    )


def page(folder: Path, size: Size) -> str:
    """The page of an audit with so many rows."""
    sites = [f"resid_post.{layer}" for layer in range(size.sites)]
    concepts = [f"concept {place}" for place in range(size.concepts)]
    results, texts = (
        results_table(concepts, sites),
        [f"row {place} {' of so many words' * 8}" for place in range(size.concepts * ROWS)],
    )
    fitted = tables(sites, sorted(concepts), size.neurons)
    inputs = make_audit(folder, config(), results, gain=0.3, joint=0.2, rows=ROWS, texts=texts, fitted=fitted)
    audit = audit_document(config(), inputs)
    return html(audit, explorer(audit, inputs))


def tables(sites: list[str], concepts: list[str], neurons: int) -> dict[str, pa.Table]:
    """What the explorer reads of the stage `fit`."""
    drawn = np.random.default_rng(0)
    places = [(site, concept) for site in sites for concept in concepts]
    count = len(places) * neurons
    own = {
        "site": np.repeat([site for site, _ in places], neurons),
        "concept": np.repeat([concept for _, concept in places], neurons),
        "neuron": np.tile(np.arange(neurons, dtype=np.int32), len(places)),
    }
    values = {name: np.abs(drawn.normal(size=count)) for name in MEASURED}
    values |= {
        "mean": drawn.normal(size=count),
        "auroc": drawn.uniform(size=count),
    }
    values |= {"std": drawn.lognormal(sigma=0.5, size=count)}
    values |= {"complement_mean": np.zeros(count), "complement_std": np.ones(count)}
    bins = drawn.multinomial(ROWS, np.hanning(BINS + 2)[1:-1] / np.hanning(BINS + 2).sum(), size=count).astype(np.int32)
    edges = {"histogram_low": np.full(count, -4.0), "histogram_high": np.full(count, 4.0)}
    histogram = pa.FixedSizeListArray.from_arrays(pa.array(bins.ravel()), BINS)
    selected = np.flatnonzero(drawn.uniform(size=count) < 0.3)
    swept = {name: column[selected] for name, column in own.items()} | {
        "role": ["sweep"] * len(selected),
        "saliency": drawn.choice(["mean_abs", "d_prime"], size=len(selected)),
        "top": np.full(len(selected), 0.3),
        "range": ["gaussian"] * len(selected),
        "base": ["gaussian"] * len(selected),
        "tau": np.full(len(selected), 2.0),
        "threshold": pa.nulls(len(selected), pa.float64()),
        "gate": ["none"] * len(selected),
        "lower": pa.array([[0.0]] * len(selected), pa.list_(pa.float32())),
        "upper": pa.array([[1.0]] * len(selected), pa.list_(pa.float32())),
        "dose_target": drawn.uniform(0.9, 1, size=len(selected)),
        "dose_complement": drawn.uniform(size=len(selected)),
    }
    pairs = [(site, one, other) for site in sites for one, other in combinations(concepts, 2)]
    overlap = {
        "site": np.repeat([site for site, _, _ in pairs], neurons),
        "concept": np.repeat([one for _, one, _ in pairs], neurons),
        "other": np.repeat([other for _, _, other in pairs], neurons),
        "neuron": np.tile(np.arange(neurons, dtype=np.int32), len(pairs)),
        "histogram_overlap": drawn.uniform(size=len(pairs) * neurons).astype(np.float32),
    }
    ends = len(sites) * neurons * 10
    examples = {
        "site": np.repeat(sites, neurons * 10),
        "neuron": np.tile(np.repeat(np.arange(neurons, dtype=np.int32), 10), len(sites)),
        "end": np.tile(np.repeat(["highest", "lowest"], 5), ends // 10),
        "place": np.tile(np.arange(5, dtype=np.int8), ends // 5),
        "row": drawn.integers(len(concepts) * ROWS, size=ends),
        "value": drawn.normal(size=ends).astype(np.float32),
    }
    found = {"statistics": own | values | edges | {"histogram": histogram}, "ranges": swept}
    return {name: pa.table(columns) for name, columns in (found | {"overlap": overlap, "examples": examples}).items()}


def waiting(chromium: Browser, file: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the explorer is there, of each round, and of each filter of all rounds."""
    ready, filters = [], []
    for turn in range(rounds + 1):  # the first does not count
        tab = chromium.new_page()
        tab.goto(file.as_uri())
        tab.wait_for_selector("#explorer-app")
        spent = tab.evaluate("performance.getEntriesByName('explorer')[0].startTime") / 1000
        found = tab.evaluate(_FILTERS)
        if turn:
            ready.append(spent)
            filters += found
        tab.close()
    return ready, filters


def _over(name: str, spent: list[float], most: float) -> Ratio:
    return Ratio(name, statistics.median(spent) / most, min(spent) / most, max(spent) / most, statistics.median(spent))
