"""What the explorer shows of a single neuron: histograms and top examples, for the neurons of highest d' as far as their bytes reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuronlens.artifact import read_table
from neuronlens.pages.text import visible
from neuronlens.report.explorer.columns import Column, decimals, fitting, packed, packed_bytes
from neuronlens.report.explorer.listing import Ints, Listing, read_site
from neuronlens.streaming.histogram import BINS

ENDS = ("highest", "lowest")
TEXT = 140
"""Characters that are shown of an example's text."""

_LEAST = 20  # characters that a neuron takes at the very least: more neurons than would fit then are not even tried
_HEAD = TEXT * 2 // 3
_GAP = " … "


@dataclass(frozen=True)
class Packed:
    """Packed columns of the first `count` neurons by score, and their texts where they have any."""

    count: int
    columns: str
    texts: str = ""


def histograms(listing: Listing, fit: Path, room: int) -> Packed:
    """Of k neurons: their places in the listing ([k] int32), the edges `low` and `high` ([k] float32), and counts ([k, C, BINS] uint32).

    Args:
        room: characters that they may take up.
    """
    neurons, concepts = listing.shape
    places = listing.ranked[: room // _LEAST // concepts]
    rank = np.full(neurons, -1)
    rank[places] = np.arange(len(places))
    low, high = (np.zeros(len(places), dtype=np.float32) for _ in range(2))
    counts = np.zeros((len(places), concepts, BINS), dtype=np.uint32)
    for site, at in listing.by_site():
        own = listing.number[at][rank[at] >= 0]
        names = ["neuron", "concept", "histogram_low", "histogram_high", "histogram"]
        table = read_site(fit / "statistics.parquet", site, names, own)
        where = rank[listing.neuron_of(table, at)]
        low[where], high[where] = table["histogram_low"].to_numpy(), table["histogram_high"].to_numpy()
        counts[where, listing.concept_of(table)] = pc.list_flatten(table["histogram"]).to_numpy().reshape(-1, BINS)

    def first(count: int) -> str:
        return packed([places[:count].astype(np.int32), low[:count], high[:count], counts[:count]])

    count = fitting(len(places), lambda count: len(first(count)), room)
    return Packed(count, first(count))


def examples(listing: Listing, inputs: Mapping[str, Path], room: int) -> Packed:
    """Of k neurons: their places in the listing ([k] int32), how many examples an end has at most (E, [1] uint8), and by `ENDS` the
    number of each example's text ([k, 2, E] int32, -1 for none) and its activation (decimals). Texts are JSON: the place of the row's
    concept, and what is shown of its text, each once.

    Nothing of anything where an audit has no examples.

    Args:
        inputs: folders of `prepare` and `fit`.
        room: characters that they may take up with their texts.
    """
    file = inputs["fit"] / "examples.parquet"
    if not file.exists():
        none = np.zeros(0, dtype=np.int32)
        return Packed(0, packed([none, np.zeros(1, dtype=np.uint8), none, *decimals([])]), packed_bytes(b"[]"))
    places = listing.ranked[: room // _LEAST]
    rank = np.full(listing.shape[0], -1)
    rank[places] = np.arange(len(places))
    parts, ranks = [], []
    for site, at in listing.by_site():
        own = listing.number[at][rank[at] >= 0]
        parts.append(read_site(file, site, ["neuron", "end", "place", "row", "value"], own))
        ranks.append(rank[listing.neuron_of(parts[-1], at)])
    table = pa.concat_tables(parts)
    where = (
        np.concatenate(ranks),
        pc.index_in(table["end"], value_set=pa.array(ENDS)).to_numpy(),
        table["place"].to_numpy(),
    )
    shape = len(places), len(ENDS), int(where[2].max(initial=-1)) + 1
    values, rows = np.full(shape, np.nan), np.full(shape, -1, dtype=np.int64)
    values[where], rows[where] = table["value"].to_numpy(), table["row"].to_numpy()
    number, used = _numbered(rows)
    texts = _texts(inputs["prepare"] / "dataset.parquet", used, listing)

    def first(count: int) -> Packed:
        deep = np.array([shape[2]], dtype=np.uint8)
        columns: list[Column] = [places[:count].astype(np.int32), deep, number[:count].astype(np.int32)]
        told = texts[: number[:count].max(initial=-1) + 1]
        written = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        return Packed(count, packed([*columns, *decimals(values[:count])]), packed_bytes(written))

    def size(count: int) -> int:
        made = first(count)
        return len(made.columns) + len(made.texts)

    return first(fitting(len(places), size, room))


def excerpt(text: str) -> str:
    """The beginning and the end of a text on one line, every character of which can be seen. Either may hold the token that was read."""
    line = " ".join(text.split())
    shown = visible(line if len(line) <= 2 * TEXT else line[:TEXT] + line[-TEXT:], 20 * TEXT)
    return shown if len(shown) <= TEXT else shown[:_HEAD] + _GAP + shown[_HEAD + len(_GAP) - TEXT :]


def _numbered(rows: Ints) -> tuple[Ints, Ints]:
    """Rows numbered in the order of their first use (-1 stays), so that the first few neurons need the first few texts; and these rows."""
    known = rows >= 0
    distinct, first, inverse = np.unique(rows[known], return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    found = np.full(rows.shape, -1)
    found[known] = number[inverse]
    return found, distinct[order]


def _texts(file: Path, rows: Ints, listing: Listing) -> list[tuple[int, str]]:
    """Of each row the place of its concept, and what is shown of its text."""
    table = read_table(file, ["row", "text", "concept"])
    table = table.filter(pc.is_in(table["row"], value_set=pa.array(rows)))
    told = zip(listing.concept_of(table).tolist(), map(excerpt, table["text"].to_pylist()), strict=True)
    found = dict(zip(table["row"].to_pylist(), told, strict=True))
    return [found[row] for row in rows.tolist()]
