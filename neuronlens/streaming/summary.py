"""The summary of a site: what is kept of its fit rows where their activations are not.

The rows that the unedited model predicts right are summed up apart from the others, so that the fit may still take either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.artifact import read_table, write_table
from neuronlens.streaming.distribution import Distribution
from neuronlens.streaming.extremes import Extremes
from neuronlens.streaming.histogram import FINE_BINS, Histogram
from neuronlens.streaming.moments import Moments

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Group = tuple[str, bool]
"""A concept, and whether the unedited model names it."""

MOMENTS, EXTREMES = "moments.parquet", "extremes.parquet"
_CENTRAL = ("mean", "m2", "m3", "m4", "mean_abs", "minimum", "maximum")
_ENDS = ("highest", "lowest")
_MOMENT = pa.schema(
    {
        "concept": pa.string(),
        "correct": pa.bool_(),
        "neuron": pa.int32(),
        "n": pa.int64(),
        **dict.fromkeys(_CENTRAL, pa.float64()),
        "bin_exponent": pa.int16(),
        "first_bin": pa.int32(),
        "histogram": pa.list_(pa.int32(), FINE_BINS),
    }
)
_EXTREME = pa.schema(
    {
        "correct": pa.bool_(),
        "end": pa.string(),
        "neuron": pa.int32(),
        "row": pa.list_(pa.int64()),
        "value": pa.list_(pa.float32()),
    }
)

# of a neuron and group: moments and bins as they are compressed on disk, where most bins are small numbers
STORED_GROUP_BYTES = 400


@dataclass(frozen=True)
class Summary:
    """Of the rows seen.

    Attributes:
        groups: distributions of the groups that have rows.
        extremes: most extreme rows of all concepts together, of those that are predicted right (True) and of the others.
    """

    groups: Mapping[Group, Distribution]
    extremes: Mapping[bool, Extremes]

    @classmethod
    def of(cls, values: Floats, rows: Ints, concept: Sequence[str], correct: Flags) -> Summary:
        """Of activations [D, n] of some rows [n]."""
        places: dict[Group, list[int]] = {}
        for place, group in enumerate(zip(concept, correct.tolist(), strict=True)):
            places.setdefault(group, []).append(place)
        return cls(
            {group: Distribution.of(values[:, own]) for group, own in sorted(places.items())},
            {right: Extremes.of(values[:, correct == right], rows[correct == right]) for right in {*correct.tolist()}},
        )

    def merge(self, other: Summary) -> Summary:
        """Of both sets of rows together."""
        groups, extremes = dict(self.groups), dict(self.extremes)
        for group, part in other.groups.items():
            groups[group] = groups[group].merge(part) if group in groups else part
        for right, ends in other.extremes.items():
            extremes[right] = extremes[right].merge(ends) if right in extremes else ends
        return Summary(groups, extremes)

    def concept(self, name: str, rows: str) -> Distribution | None:
        """Of a concept's rows; None where there are none.

        Args:
            rows: `correct` takes those that are predicted right, `all` takes all.
        """
        found = None
        for right in (True, False) if rows == "all" else (True,):
            part = self.groups.get((name, right))
            if part is not None:
                found = part if found is None else found.merge(part)
        return found

    def ends(self, rows: str) -> Extremes:
        """The most extreme rows; `rows` as above, of which there must be some."""
        own = [
            self.extremes[right] for right in ((True, False) if rows == "all" else (True,)) if right in self.extremes
        ]
        return own[0] if len(own) == 1 else own[0].merge(own[1])


def write_summary(folder: Path, found: Summary) -> None:
    """The artifacts moments.parquet (a row per concept, correct and neuron) and extremes.parquet (per correct, end and neuron)."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = [_MOMENT.empty_table()]
    for (concept, correct), part in sorted(found.groups.items()):
        width, bins = len(part.histogram.k), part.histogram.counts.T.astype(np.int32)
        columns = {
            "concept": pa.array([concept] * width, pa.string()),
            "correct": np.full(width, correct),
            "neuron": np.arange(width),
            "n": np.full(width, part.n),
            **{name: getattr(part.moments, name) for name in _CENTRAL},
            "bin_exponent": part.histogram.k,
            "first_bin": part.histogram.first,
            "histogram": pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(bins).reshape(-1), FINE_BINS),
        }
        tables.append(pa.table(columns).cast(_MOMENT))
    write_table(folder / MOMENTS, pa.concat_tables(tables))
    tables = [_EXTREME.empty_table()]
    for correct, ends in sorted(found.extremes.items()):
        for end in _ENDS:
            value, row = getattr(ends, end), getattr(ends, f"{end}_row")
            columns = {
                "correct": np.full(len(value), correct),
                "end": pa.array([end] * len(value)),
                "neuron": np.arange(len(value)),
                "row": pa.array(list(row), pa.list_(pa.int64())),
                "value": pa.array(list(value), pa.list_(pa.float32())),
            }
            tables.append(pa.table(columns).cast(_EXTREME))
    write_table(folder / EXTREMES, pa.concat_tables(tables))


def read_summary(folder: Path) -> Summary:
    """What `write_summary` wrote."""
    groups: dict[Group, Distribution] = {}
    for part in _by_neurons(read_table(folder / MOMENTS)):
        n = part["n"][0].as_py()
        moments = Moments(n, *(part[name].to_numpy() for name in _CENTRAL))
        k, first = (part[name].to_numpy().astype(np.int64) for name in ("bin_exponent", "first_bin"))
        bins = part["histogram"].combine_chunks().flatten().to_numpy().reshape(len(k), FINE_BINS)
        histogram = Histogram(n, k, first, bins.T.astype(np.int64))
        groups[part["concept"][0].as_py(), part["correct"][0].as_py()] = Distribution(moments, histogram)
    ends: dict[bool, list[Any]] = {}
    for part in _by_neurons(read_table(folder / EXTREMES)):  # of either end in the order of `_ENDS`
        value = np.array(part["value"].to_pylist(), dtype=np.float32)
        ends.setdefault(part["correct"][0].as_py(), []).extend([value, np.array(part["row"].to_pylist(), np.int64)])
    return Summary(groups, {correct: Extremes(*found) for correct, found in ends.items()})


def _by_neurons(table: pa.Table) -> Iterator[pa.Table]:
    """The parts of a table that have one row for each neuron."""
    starts = np.flatnonzero(table["neuron"].to_numpy() == 0).tolist()
    for start, end in pairwise([*starts, len(table)]):
        yield table.slice(start, end - start)
