"""The store: pooled activations as neuron-major Parquet tiles, one row per neuron.

A neuron's values over all examples of a shard lie together, ordered by concept, which is how the fit reads them; the side table
rows.parquet says which example stands in which slot. One neuron is read without the others: what that costs is the footer of each shard
and one row group of each, so shards are large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.artifact import damaged, read_table, write_table
from neuronlens.errors import SiteError, UserError, did_you_mean
from neuronlens.sites import Site
from neuronlens.streaming.summary import MOMENTS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Placed = tuple[str, int, Ints]

# A row group is the least that can be read, and what the codec sees at once. Values that came from bfloat16, split by bytes, take 0.35 of
# float32's size where a group holds 160,000 of them or more, as zstd's blocks of 128 KiB then hold bytes of one rank. With 20,000: 0.39.
_VALUES_PER_ROW_GROUP = 3 << 16
_NEURONS_PER_BATCH = 8
# Of the widest site, as float32; values that came from bfloat16 take 64 MiB of it on disk. A shard costs whoever reads one neuron a footer
# and part of a row group, over a millisecond, so that few and large ones are faster.
_SHARD_BYTES = 184 << 20
# Of all sites together, as a shard is held in memory until it is written.
_MEMORY_BYTES = 2 << 30


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


def plan_shards(batches: Sequence[Placed], widths: Sequence[int]) -> list[list[Placed]]:
    """Group batches into shards of at most 184 MB of the widest site and 2 GB of all. Depends on the data alone, never on workers or time.

    Args:
        batches: see `neuronlens.activations.batching.placed`.
        widths: of the sites that are read.
    """
    return plan_groups(batches, min(_SHARD_BYTES // (4 * max(widths)), _MEMORY_BYTES // (4 * sum(widths))))


def plan_groups(batches: Sequence[Placed], room: int) -> list[list[Placed]]:
    """Group batches, in their order, into groups of at most so many rows; a larger batch stands alone."""
    groups: list[list[Placed]] = [[]]
    rows = 0
    for batch in batches:
        count = len(batch[-1])
        if groups[-1] and rows + count > room:
            groups.append([])
            rows = 0
        groups[-1].append(batch)
        rows += count
    return groups


def shard_path(folder: Path, site: Site, shard: int) -> Path:
    """Where a site's shard lies."""
    return folder / f"site={site}" / f"shard={shard:05d}.parquet"


def write_shard(path: Path, values: Floats) -> None:
    """Write [D, n] activations of one site and shard."""
    neurons, examples = values.shape
    # nothing is null, and a reader that knows it has less to decode
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), examples)
    schema = pa.schema([pa.field("neuron", pa.int32(), nullable=False), pa.field("values", kind, nullable=False)])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    columns = [pa.array(np.arange(neurons, dtype=np.int32)), pa.FixedSizeListArray.from_arrays(flat, type=kind)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(
        path,
        pa.Table.from_arrays(columns, schema=schema),
        row_group_size=max(1, _VALUES_PER_ROW_GROUP // max(1, examples)),
        values=("values",),
    )


def read_shard(path: Path) -> Floats:
    """[D, n] activations of one site and shard."""
    table = read_table(path, ["neuron", "values"])
    column = table["values"].combine_chunks()
    flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)


def read_neuron(folder: Path, site: Site, neuron: int) -> Floats:
    """[N] activations of one neuron, in the order of rows that `read_activations` has, from one row group of each shard.

    Args:
        folder: of the stage `extract`.
        neuron: index, from 0.

    Raises:
        SiteError: the site was not read, or has no such neuron.
        ArtifactError: a shard is damaged.
    """
    _check_kept(folder, site)
    shards = sorted(folder.glob(f"site={site}/shard=*.parquet"))
    if not shards:
        known = sorted(path.name.removeprefix("site=") for path in folder.glob("site=*"))
        raise SiteError(f"no activations of site {site} in {folder}", cure=did_you_mean(str(site), known))
    return np.concatenate([_read_row(path, site, neuron) for path in shards])


def _check_kept(folder: Path, site: Site) -> None:
    """Refuse to look for rows that were not kept.

    Raises:
        UserError: they were not.
    """
    if (folder / f"site={site}" / MOMENTS).exists():
        raise UserError(
            "activations of single rows were not kept",
            where=str(folder),
            cure="Audit again with --set extract.keep_rows=true.",
        )


def _read_row(path: Path, site: Site, neuron: int) -> Floats:
    """[n] values of one neuron in one shard."""
    import pyarrow.parquet as pq

    try:
        stat = path.stat()
        with pq.ParquetFile(path, metadata=_footer(path, stat.st_size, stat.st_mtime_ns)) as file:
            width = file.metadata.num_rows
            if not 0 <= neuron < width:
                raise SiteError(f"site {site} has no neuron {neuron}", cure=f"Its neurons are 0 to {width - 1}.")
            # all row groups but the last are equal
            group, row = divmod(neuron, file.metadata.row_group(0).num_rows)
            # in small batches, since what comes after the neuron need not be decoded
            batches = file.iter_batches(_NEURONS_PER_BATCH, row_groups=[group], columns=["values"], use_threads=False)
            batch = next(islice(batches, row // _NEURONS_PER_BATCH, None))
            found: Floats = batch["values"][row % _NEURONS_PER_BATCH].values.to_numpy(zero_copy_only=False)
            return found
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


@lru_cache(maxsize=256)
def _footer(path: Path, _size: int, _modified: int) -> Any:
    """What a shard says of itself. It takes as long to read as a neuron, and whoever looks at one neuron looks at others.

    A file of another size or time is another file: they are part of the key under which a footer is kept.
    """
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


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

    Raises:
        UserError: activations of rows were not kept.
        ArtifactError: files are damaged, or do not belong together.
    """
    try:
        return _joined(folder, dataset, sites)
    except (KeyError, ValueError, TypeError) as error:  # what was flipped in a file may still be a table
        raise damaged(
            folder / "rows.parquet", ValueError(f"it is not what belongs to the other files: {error}")
        ) from error


def _joined(folder: Path, dataset: pa.Table, sites: Sequence[Site] | None) -> Activations:
    rows = read_table(folder / "rows.parquet").sort_by([("shard", "ascending"), ("slot", "ascending")])
    shards = sorted(set(rows["shard"].to_pylist()))
    found = (
        sites if sites is not None else [Site.parse(path.name.removeprefix("site=")) for path in folder.glob("site=*")]
    )
    for site in found:
        _check_kept(folder, site)
    values = {
        site: np.concatenate([read_shard(shard_path(folder, site, shard)) for shard in shards], axis=1)
        for site in sorted(found)
    }
    place = {row: i for i, row in enumerate(dataset["row"].to_pylist())}
    index = [place[row] for row in rows["row"].to_pylist()]
    if any(tile.shape[1] != len(index) for tile in values.values()):
        raise ValueError("of another number of rows")
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
