"""The neuron explorer's data: every (site, neuron, concept) of an audit, in the few bytes that a page has room for.

Rows are sorted by site, neuron and concept, so that none of the three needs a column of its own. Numbers have 3 digits. What does not fit
is left out from the neurons of lowest d' upwards, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuronlens.pages.text import points, points_between, visible
from neuronlens.report.explorer.columns import Column, decimals, fitting, packed, packed_bytes
from neuronlens.report.explorer.details import examples, histograms
from neuronlens.report.explorer.listing import Array, Ints, Listing, read_site
from neuronlens.report.table import KIND_NAMES, is_main

SCHEMA_VERSION = 1
MEASURED = ("mean", "std", "d_prime", "auroc", "mean_abs")
"""Columns of statistics.parquet that every row has."""
CHARACTERS, DETAILS = 3_000_000, 300_000
"""What the rows may take up of a page of 5 MB, and what is kept for histograms and examples, which take what rows leave as well."""
TUNED = "tuned"
NONE = 65535
"""In place of a concept: there is none."""

_FEWEST = 10  # characters that a row takes at the very least: more rows than would fit then are not even tried
_DOSES = ("dose_target", "dose_complement")
_CHOSEN = "chosen.parquet"
_CHOICE = ("concept", "saliency", "top", "range", "base", "tau", "threshold", "gate")
_MASKED = ("gaussian", "full")
Row = Mapping[str, Any]


def explorer(audit: Row, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """explorer.json: names, counts, and columns as `neuronlens.report.explorer.columns.packed` packs them.

    `rows` are, of N listed neurons and C concepts: `site` ([N] uint16, its place in `sites`), `number` ([N] int32), then [N, C] the
    decimals of `columns`, `alike` (uint16, the concept whose histogram overlaps most, or `NONE`) and `selected` (uint8, a bit for each of
    `selections`). `histograms`, `examples` and `texts` are as `neuronlens.report.explorer.details` packs them.

    Args:
        audit: audit.json.
        inputs: folders of `prepare`, `fit` and `evaluate`.
    """
    settings = audit["settings"]
    sites, concepts = [row["site"] for row in audit["sites"]], sorted(audit["trust"]["fit_rows"])
    every = Listing.of(inputs["fit"], sites, concepts)
    most = every.only(every.ranked[: CHARACTERS // _FEWEST // len(concepts)])
    ranked = most.ranked
    numbers, alike, selected = _columns(most, settings, inputs)

    @cache
    def rows(count: int) -> str:
        kept = np.sort(ranked[:count])
        columns: list[Column] = [most.site[kept].astype(np.uint16), most.number[kept].astype(np.int32)]
        columns += [part for column in numbers.values() for part in decimals(column[kept])]
        return packed([*columns, alike[kept], selected[kept]])

    count = fitting(len(ranked), lambda count: len(rows(count)), CHARACTERS)
    listing = most.only(ranked[:count])
    room = CHARACTERS + DETAILS - len(rows(count))
    drawn = histograms(listing, inputs["fit"], room * 3 // 5)
    told = examples(listing, inputs, room - len(drawn.columns))
    return {
        "schema_version": SCHEMA_VERSION,
        "sites": sites,
        "concepts": concepts,
        "tau": settings[0]["tau"] if settings else None,
        "selections": [row["name"] for row in settings] + [TUNED] * (inputs["evaluate"] / _CHOSEN).exists(),
        "settings": len(settings),
        "neurons": {"all": every.shape[0], "listed": count, "histograms": drawn.count, "examples": told.count},
        "columns": [*numbers],
        "rows": rows(count),
        "histograms": drawn.columns,
        "examples": told.columns,
        "texts": told.texts,
    }


def embedded(audit: Row, explorer: Row) -> str:
    """What the page's script reads: explorer.json, in whose names every character can be seen, and the effects of edits.

    An effect is [place of the site, of the concept, of the selection, name of the edit, drops and selectivity as they are shown]: a
    selection edits all neurons that it selects for a concept.
    """
    names = {name: [visible(part) for part in explorer[name]] for name in ("sites", "concepts")}
    effects = json.dumps(list(_effects(audit, explorer)), separators=(",", ":")).encode()
    return json.dumps({**explorer, **names, "effects": packed_bytes(effects)}, sort_keys=True)


def _effects(audit: Row, explorer: Row) -> Iterator[list[object]]:
    sites, concepts = ({name: place for place, name in enumerate(explorer[names])} for names in ("sites", "concepts"))
    saliencies = [setting["saliency"] for setting in audit["settings"]]
    for row in audit["results"]:
        if not is_main(row, audit) or row["site"] not in sites or row["concept"] not in concepts:
            continue
        if row["method"] == TUNED:
            selection = len(saliencies)
        elif row["role"] == "sweep" and row["kind"] in _MASKED:
            selection = saliencies.index(row["saliency"])
        else:
            continue  # a control edits other neurons, or all of them
        shown = [
            f"{points(row[name])} {points_between(row[f'{name}_low'], row[f'{name}_high'])}".rstrip()
            for name in ("target_accuracy_drop", "complement_accuracy_drop", "selectivity")
        ] + [points(row[name]) for name in ("target_confidence_drop", "complement_confidence_drop")]
        yield [sites[row["site"]], concepts[row["concept"]], selection, KIND_NAMES[row["kind"]], *shown]


def _columns(
    listing: Listing, settings: Sequence[Row], inputs: Mapping[str, Path]
) -> tuple[dict[str, Array], npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """[N, C] each: numbers by name, `alike`, and `selected`."""
    numbers = {name: np.full(listing.shape, np.nan) for name in (*MEASURED, "overlap", *_DOSES)}
    alike, selected = np.full(listing.shape, NONE, dtype=np.uint16), np.zeros(listing.shape, dtype=np.uint8)
    for site, at in listing.by_site():
        own = listing.number[at]
        table = read_site(inputs["fit"] / "statistics.parquet", site, ["neuron", "concept", *MEASURED], own)
        where = listing.neuron_of(table, at), listing.concept_of(table)
        for name in MEASURED:
            numbers[name][where] = table[name].to_numpy()
        _overlap(inputs["fit"] / "overlap.parquet", site, listing, at, numbers["overlap"], alike)
        for bit, setting in enumerate(settings):
            table = _swept(inputs["fit"] / "ranges.parquet", site, own, setting)
            where = listing.neuron_of(table, at), listing.concept_of(table)
            selected[where] |= np.uint8(1 << bit)
            if setting["tau"] is not None:
                for name in _DOSES:
                    numbers[name][where] = table[name].to_numpy()
        table = _tuned(inputs, site, own)
        selected[listing.neuron_of(table, at), listing.concept_of(table)] |= np.uint8(1 << len(settings))
    return numbers, alike, selected


def _swept(file: Path, site: str, own: Ints, setting: Row) -> pa.Table:
    """What a setting of the findings selects: its ranges, or whole neurons where it has none."""
    where = (pc.field("role") == "sweep") & (pc.field("range") == _MASKED[setting["tau"] is None])
    where &= (pc.field("saliency") == setting["saliency"]) & (pc.field("top") == setting["top"])
    if setting["tau"] is not None:
        where &= pc.field("tau") == setting["tau"]
    return read_site(file, site, ["concept", "neuron", *_DOSES], own, where=where)


def _tuned(inputs: Mapping[str, Path], site: str, own: Ints) -> pa.Table:
    """The concepts and neurons of what the validation rows chose as the tuned method; none where nothing was tuned."""
    file = inputs["evaluate"] / _CHOSEN
    if not file.exists():
        return pa.table({"concept": pa.array([], pa.string()), "neuron": pa.array([], pa.int32())})
    chosen = read_site(file, site, _CHOICE, where=pc.field("method") == TUNED)
    where = pc.scalar(True)
    for name in ("concept", "saliency", "top", "range"):  # candidates by the hundred need not be read to be left out
        where &= pc.field(name).isin(chosen[name].unique())
    ranges = read_site(inputs["fit"] / "ranges.parquet", site, [*_CHOICE, "neuron"], own, where=where)
    return _without_nulls(ranges).join(_without_nulls(chosen), [*_CHOICE], join_type="inner")


def _without_nulls(table: pa.Table) -> pa.Table:
    """Nulls equal nothing, not even each other; no width and no threshold is negative."""
    for name in ("tau", "threshold"):
        table = table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], -1.0))
    return table


def _overlap(file: Path, site: str, listing: Listing, at: slice, overlap: Array, alike: npt.NDArray[np.uint16]) -> None:
    """Fill in the largest overlap of a concept's histogram with another's, and which concept that is: the first of several."""
    table = read_site(file, site, ["concept", "other", "neuron", "histogram_overlap"], listing.number[at])
    neuron = np.tile(listing.neuron_of(table, at), 2)
    first, second = listing.concept_of(table), listing.concept_of(table, "other")
    own, other = np.concatenate([first, second]), np.concatenate([second, first])
    value = np.tile(table["histogram_overlap"].to_numpy().astype(np.float64), 2)
    order = np.lexsort([-other, value])  # the largest is written last
    where = neuron[order], own[order]
    overlap[where], alike[where] = value[order], other[order]
