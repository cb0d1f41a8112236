"""The store gives back what was put in, and its layout depends on the data alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuronlens.activations import store
from neuronlens.activations.store import plan_shards, read_shard, rows_table, write_shard
from neuronlens.errors import ArtifactError


@settings(deadline=None, max_examples=30)
@given(values=hnp.arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 9))))
def test_a_shard_comes_back_bit_for_bit(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("shard") / "deep" / "shard=00000.parquet"
    write_shard(file, values)
    assert read_shard(file).tobytes() == np.ascontiguousarray(values).tobytes()


def test_a_tile_is_32_neurons_compressed_and_byte_split(tmp_path):
    write_shard(tmp_path / "tile.parquet", np.zeros((70, 4), dtype=np.float32))
    meta = pq.ParquetFile(tmp_path / "tile.parquet").metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [32, 32, 6]
    column = meta.row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings


def test_equal_values_give_equal_bytes(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    write_shard(tmp_path / "one.parquet", values)
    write_shard(tmp_path / "two.parquet", np.asfortranarray(values))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_shards_keep_whole_batches_in_order_and_fit_the_widest_site(monkeypatch):
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 10 * 8)  # ten rows of eight neurons
    batches = [np.arange(4), np.arange(4, 8), np.arange(8, 10), np.arange(10, 30), np.arange(30, 31)]
    shards = plan_shards(batches, [2, 8])
    assert [[len(batch) for batch in shard] for shard in shards] == [[4, 4, 2], [20], [1]]
    assert np.concatenate([batch for shard in shards for batch in shard]).tolist() == list(range(31))


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
