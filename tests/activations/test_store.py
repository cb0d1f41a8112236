"""The store gives back what was put in, and its layout depends on the data alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuronlens.activations import store
from neuronlens.activations.store import (
    plan_shards,
    read_activations,
    read_neuron,
    read_shard,
    rows_table,
    shard_path,
    write_shard,
)
from neuronlens.artifact import read_table, write_table
from neuronlens.errors import ArtifactError, SiteError
from neuronlens.sites import Site
from tests.golden.make import AUDIT, thawed


@settings(deadline=None, max_examples=30)
@given(values=hnp.arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 9))))
def test_a_shard_comes_back_bit_for_bit(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("shard") / "deep" / "shard=00000.parquet"
    write_shard(file, values)
    assert read_shard(file).tobytes() == np.ascontiguousarray(values).tobytes()


def test_a_tile_holds_about_as_many_values_whatever_the_shard(tmp_path, monkeypatch):
    """Compressed and byte-split, as many whole neurons as the codec wants values; one neuron where it has more than that."""
    monkeypatch.setattr(store, "_VALUES_PER_ROW_GROUP", 130)
    for examples, sizes in ((4, [32, 32, 6]), (65, [2] * 35), (131, [1] * 70), (1, [70])):
        write_shard(tmp_path / "tile.parquet", np.zeros((70, examples), dtype=np.float32))
        meta = pq.ParquetFile(tmp_path / "tile.parquet").metadata
        assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == sizes
        column = meta.row_group(0).column(1)
        assert column.compression == "ZSTD"
        assert "BYTE_STREAM_SPLIT" in column.encodings


def test_values_that_came_from_bfloat16_take_a_third_of_float32(tmp_path):
    """Without loss; row groups of a tenth of the values would take a tenth more."""
    drawn = np.random.default_rng(0).normal(size=(192, 1024)).astype(np.float32)
    values = torch.from_numpy(drawn).bfloat16().float().numpy()
    write_shard(tmp_path / "tile.parquet", values)
    assert read_shard(tmp_path / "tile.parquet").tobytes() == values.tobytes()
    assert (tmp_path / "tile.parquet").stat().st_size <= 0.35 * values.nbytes


def test_equal_values_give_equal_bytes(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    write_shard(tmp_path / "one.parquet", values)
    write_shard(tmp_path / "two.parquet", np.asfortranarray(values))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_shards_keep_whole_batches_in_order_and_fit_the_widest_site(monkeypatch):
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 10 * 8)  # ten rows of eight neurons
    edges = [0, 4, 8, 10, 30, 31]
    batches = [("fit", place, np.arange(*ends)) for place, ends in enumerate(pairwise(edges))]
    shards = plan_shards(batches, [2, 8])
    assert [[len(rows) for _, _, rows in shard] for shard in shards] == [[4, 4, 2], [20], [1]]
    assert [batch for shard in shards for batch in shard] == batches


def test_shards_of_all_sites_together_fit_into_memory(monkeypatch):
    monkeypatch.setattr(store, "_MEMORY_BYTES", 4 * 10 * 8)
    batches = [("fit", i, np.arange(4 * i, 4 * i + 4)) for i in range(3)]
    assert [len(shard) for shard in plan_shards(batches, [8])] == [2, 1]
    assert [len(shard) for shard in plan_shards(batches, [4, 8, 4])] == [1, 1, 1]


def stored(folder, shards, neurons=70):
    """Activations of two sites in shards of so many rows, as `extract` writes them; rows alternate between concepts."""
    generator = np.random.default_rng(0)
    sites, rows = (Site(0, "resid_post"), Site(1, "mlp_post")), sum(shards)
    for shard, count in enumerate(shards):
        for site in sites:
            values = generator.normal(size=(neurons, count)).astype(np.float32)
            write_shard(shard_path(folder, site, shard), values)
    columns = {
        "row": np.arange(rows)[::-1],
        "shard": np.repeat(range(len(shards)), shards),
        "slot": np.concatenate([np.arange(count) for count in shards]),
        **{name: np.zeros(rows, dtype=np.int64) for name in ("position", "tokens")},
        "predicted": [None] * rows,
        "correct": np.zeros(rows, dtype=bool),
        "confidence": np.zeros(rows, dtype=np.float32),
    }
    write_table(folder / "rows.parquet", rows_table(columns))
    return pa.table({"row": range(rows), "concept": ["a", "b"] * (rows // 2), "split": ["fit"] * rows})


@pytest.mark.parametrize("values_per_group", [1, 90, 1 << 20])
@pytest.mark.parametrize("shards", [(6,), (5, 4, 2, 1), (1,) * 12])
def test_one_neuron_is_its_row_of_all_activations(tmp_path, monkeypatch, shards, values_per_group):
    """Whatever the shards and the row groups, of the last neuron as well."""
    monkeypatch.setattr(store, "_VALUES_PER_ROW_GROUP", values_per_group)
    found = read_activations(tmp_path, stored(tmp_path, shards))
    assert len(found.sites) == 2
    for site in found.sites:
        for neuron in (0, 7, 8, 44, 69):
            assert read_neuron(tmp_path, site, neuron).tobytes() == found.values[site][neuron].tobytes()


def test_one_neuron_is_read_from_one_row_group_of_a_shard(tmp_path, monkeypatch):
    """The others may be damaged, which nobody sees who does not read them."""
    monkeypatch.setattr(store, "_VALUES_PER_ROW_GROUP", 6 * 10)
    found = read_activations(tmp_path, stored(tmp_path, (6,)))
    site = found.sites[0]
    file = shard_path(tmp_path, site, 0)
    meta = pq.ParquetFile(file).metadata
    content = bytearray(file.read_bytes())
    for group in range(meta.num_row_groups):
        column = meta.row_group(group).column(1)
        if group != 3:
            start = column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    np.testing.assert_array_equal(read_neuron(tmp_path, site, 35), found.values[site][35])
    with pytest.raises(ArtifactError, match=r"shard=00000\.parquet: cannot be read"):
        read_neuron(tmp_path, site, 12)


@pytest.mark.parametrize("neuron", [-1, 70, 10**12])
def test_a_neuron_that_is_not_there_is_one_line(tmp_path, neuron):
    stored(tmp_path, (4, 2))
    with pytest.raises(SiteError, match=rf"^site resid_post\.0 has no neuron {neuron}\. Its neurons are 0 to 69\.$"):
        read_neuron(tmp_path, Site(0, "resid_post"), neuron)


def test_a_site_that_was_not_read_is_one_line_with_those_that_were(tmp_path):
    stored(tmp_path, (4,))
    with pytest.raises(SiteError, match=r"^no activations of site mlp_post\.0 in .*\. Did you mean 'mlp_post\.1'\?$"):
        read_neuron(tmp_path, Site(0, "mlp_post"), 0)


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "shard.parquet"
    write_shard(file, np.zeros((3, 3), dtype=np.float32))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"shard\.parquet: cannot be read.*run the same command again"):
        read_shard(file)


def test_the_side_table_has_the_promised_columns():
    names = ("row", "shard", "slot", "position", "tokens", "predicted", "correct", "confidence")
    values = {name: [1] for name in names} | {"predicted": [None], "correct": [True], "confidence": [0.5]}
    table = rows_table(values)
    assert table.column_names == list(names)
    assert table.schema.field("row").type == pa.int64()
    assert table.schema.field("confidence").type == pa.float32()


def test_files_that_do_not_belong_together_are_damaged(tmp_path):
    extract = thawed(AUDIT, tmp_path) / "after/extract"
    dataset, site = read_table(tmp_path / "after/prepare/dataset.parquet"), Site.parse("resid_post.1")
    whole = read_activations(extract, dataset, [site])
    assert whole.values[site].shape == (16, len(dataset))
    with pytest.raises(
        ArtifactError, match=r"rows\.parquet: cannot be read \(it is not what belongs to the other files"
    ):
        read_activations(extract, dataset.slice(0, 5), [site])
    write_shard(store.shard_path(extract, site, 0), whole.values[site][:, 1:])
    with pytest.raises(ArtifactError, match=r"rows\.parquet: cannot be read \(.*of another number of rows"):
        read_activations(extract, dataset, [site])
