"""Top examples are the extremes of all fit rows, found without sorting them again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.artifact import read_table, write_table
from neuronlens.ranges.examples import Thresholds
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.ranges.tables import examples_table
from neuronlens.streaming import blocks
from neuronlens.streaming.extremes import EXAMPLES
from tests.ranges.sample import CONCEPTS, SITE, activations, of_values, statistics


def by_sorting(ours):
    """Rows of the table, one neuron after the other, from a full sort of (value, row)."""
    rows, values = np.concatenate(ours.rows), np.concatenate(ours.values, axis=1)
    found = []
    for neuron in range(ours.width):
        for end, sign in (("highest", -1), ("lowest", 1)):
            order = sorted(range(len(rows)), key=lambda i, n=neuron, s=sign: (s * values[n, i], rows[i]))
            for place, i in enumerate(order[:EXAMPLES]):
                found.append((str(SITE), neuron, end, place, int(rows[i]), float(values[neuron, i])))
    return found


def listed(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 3), st.sampled_from([8, 600, 2**20]))
def test_examples_are_those_of_a_full_sort(seed, per, digits, block):
    """Also where values tie, where there are few rows, and where rows come in no order; of a constant neuron and one that is mostly 0."""
    generator = np.random.default_rng(seed)
    count = 3 * per
    values = np.round(generator.normal(size=(6, count)), digits - 1)
    values[2] = 0.1
    values[3] = np.maximum(values[3], 0)
    found = of_values(values, [CONCEPTS[i] for i in generator.permutation(count) % 3])
    object.__setattr__(found, "row", generator.permutation(1000)[:count])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block)
        ours = fit_statistics(found, SITE)
        assert listed(examples_table(ours)) == by_sorting(ours)


def test_thresholds_are_the_kth_of_all_concepts_however_many():
    values = np.random.default_rng(2).normal(size=(250, 5, EXAMPLES)).astype(np.float32)
    found = Thresholds.of(list(values), list(values))
    ordered = np.sort(np.concatenate(list(values), axis=1), axis=1)
    assert found.count == EXAMPLES
    np.testing.assert_array_equal(found.lowest, ordered[:, EXAMPLES - 1])
    np.testing.assert_array_equal(found.highest, ordered[:, -EXAMPLES])


def test_examples_are_among_the_rows_that_ranges_rest_on():
    found, ours = activations(), statistics()
    rested = {
        int(row)
        for row, split, right in zip(found.row, found.split, found.correct, strict=True)
        if split == "fit" and right
    }
    rows = {row["row"] for row in examples_table(ours).to_pylist()}
    assert rows < rested < {*map(int, found.row)}


def test_the_value_of_an_example_is_the_neurons_on_that_row(tmp_path):
    write_table(tmp_path / "examples.parquet", examples_table(statistics()))
    table = read_table(tmp_path / "examples.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "int32", "string", "int8", "int64", "float"]
    given_ = activations().values[SITE]
    for row in table.to_pylist():
        assert given_[row["neuron"], row["row"]] == row["value"]
