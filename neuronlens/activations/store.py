"""The store: pooled activations as neuron-major Parquet tiles, one row per neuron.

A neuron's values over all examples lie together, ordered by concept, which is how the fit and the report read them; the side
table rows.parquet says which example stands in which slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.artifact import read_table, write_table
from neuronlens.sites import Site

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_NEURONS_PER_ROW_GROUP = 32
_SHARD_BYTES = 32 << 20


@dataclass(frozen=True)
class Activations:
    """Pooled activations and the unedited model's answers, of N rows.

    Attributes:
        values: site -> [D, N] float32, neuron-major.
        row: [N] row of the dataset.
        concept, split: [N].
        position: [N] column that was pooled, -1 for mean and max.
        tokens: [N] length of the row in tokens.
        predicted: [N] concept the model names, None where it names none.
        correct: [N] whether that is the row's concept.
        confidence: [N] probability the model gives the row's concept.
    """

    values: Mapping[Site, Floats]
    row: Ints
    concept: Sequence[str]
    split: Sequence[str]
    position: Ints
    tokens: Ints
    predicted: Sequence[str | None]
    correct: npt.NDArray[np.bool_]
    confidence: Floats

    def __len__(self) -> int:
        return len(self.row)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites that were read, in order."""
        return tuple(sorted(self.values))


def plan_shards(batches: Sequence[Ints], widths: Sequence[int]) -> list[list[Ints]]:
    """Group batches into shards of about 32 MB of the widest site. Depends on the data alone, never on workers or time."""
    room = _SHARD_BYTES // (4 * max(widths))
    shards: list[list[Ints]] = [[]]
    rows = 0
    for batch in batches:
        if shards[-1] and rows + len(batch) > room:
            shards.append([])
            rows = 0
        shards[-1].append(batch)
        rows += len(batch)
    return shards


def shard_path(folder: Path, site: Site, shard: int) -> Path:
    """Where a site's shard lies."""
    return folder / f"site={site}" / f"shard={shard:05d}.parquet"


def write_shard(path: Path, values: Floats) -> None:
    """Write [D, n] activations of one site and shard."""
    neurons, examples = values.shape
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    table = pa.table(
        {
            "neuron": pa.array(np.arange(neurons, dtype=np.int32)),
            "values": pa.FixedSizeListArray.from_arrays(flat, examples),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table, row_group_size=_NEURONS_PER_ROW_GROUP, values=("values",))


def read_shard(path: Path) -> Floats:
    """[D, n] activations of one site and shard."""
    table = read_table(path, ["neuron", "values"])
    column = table["values"].combine_chunks()
    flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)


def rows_table(columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic]]) -> pa.Table:
    """The artifact rows.parquet: row, shard, slot, position, tokens, predicted, correct, confidence."""
    types = {
        "row": pa.int64(),
        "shard": pa.int32(),
        "slot": pa.int32(),
        "position": pa.int32(),
        "tokens": pa.int32(),
        "predicted": pa.string(),
        "correct": pa.bool_(),
        "confidence": pa.float32(),
    }
    return pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})


def read_activations(folder: Path, dataset: pa.Table, sites: Sequence[Site] | None = None) -> Activations:
    """What the stage `extract` wrote, joined with the concept and split of each row.

    Args:
        dataset: dataset.parquet.
        sites: those to read; all unless told otherwise.
    """
    rows = read_table(folder / "rows.parquet").sort_by([("shard", "ascending"), ("slot", "ascending")])
    shards = sorted(set(rows["shard"].to_pylist()))
    found = (
        sites if sites is not None else [Site.parse(path.name.removeprefix("site=")) for path in folder.glob("site=*")]
    )
    values = {
        site: np.concatenate([read_shard(shard_path(folder, site, shard)) for shard in shards], axis=1)
        for site in sorted(found)
    }
    place = {row: i for i, row in enumerate(dataset["row"].to_pylist())}
    index = [place[row] for row in rows["row"].to_pylist()]
    known = dataset.take(index)
    return Activations(
        values,
        row=rows["row"].to_numpy(),
        concept=known["concept"].to_pylist(),
        split=known["split"].to_pylist(),
        position=rows["position"].to_numpy().astype(np.int64),
        tokens=rows["tokens"].to_numpy().astype(np.int64),
        predicted=rows["predicted"].to_pylist(),
        correct=rows["correct"].to_numpy(zero_copy_only=False),
        confidence=rows["confidence"].to_numpy(),
    )
