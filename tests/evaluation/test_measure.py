"""Every measured column is a count over rows that NumPy repeats, with the intervals and tests of `uncertainty` and of SciPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest, false_discovery_control

from neuronlens.evaluation import uncertainty
from neuronlens.evaluation.measure import MEASURED, _names, adjust, measure
from neuronlens.evaluation.sweep import IDENTITY
from tests.evaluation.by_hand import scores

CONCEPTS = ("finance", "health", "sports")
TRUTH = np.tile([0, 1, 1, 2, 2, 2], 7)


@pytest.fixture(scope="module")
def rows():
    """Of four edits."""
    drawn = np.random.default_rng(3)
    shape = (5, len(TRUTH))
    looked_at = drawn.integers(0, 9, shape)
    looked_at[4] = 0  # an edit that never looks at anything
    dose = drawn.integers(0, looked_at + 1), looked_at
    return scores(TRUTH, drawn.random(shape) < 0.7, drawn.random(shape), dose=dose)


def test_columns_stand_in_the_order_in_which_they_are_read():
    expected = []
    for group in ("target", "complement"):
        for measured in ("accuracy", "confidence"):
            name = f"{group}_{measured}"
            expected += [name, f"{name}_low", f"{name}_high", f"base_{name}"]
            expected += [f"{name}_drop", f"{name}_drop_low", f"{name}_drop_high"]
    for name in ("selectivity", "confidence_selectivity"):
        expected += [name, f"{name}_low", f"{name}_high"]
    expected += [
        "dose_target",
        "dose_complement",
        "target_p",
        "complement_p",
        "target_p_adjusted",
        "complement_p_adjusted",
    ]
    assert [*_names()] == [*MEASURED] == expected


def ends(estimate):
    return [float(part[0]) for part in estimate]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_column_is_a_recount(rows, concept):
    edits = [3, 1, 4]
    found = measure(rows, concept, edits)
    own = np.equal(TRUTH, CONCEPTS.index(concept))
    for edit, row in zip(edits, found, strict=True):
        assert {*row} == {*MEASURED, "n_target", "n_complement"}
        drops = {}
        for group, members in (("target", own), ("complement", ~own)):
            n = int(members.sum())
            before, after = (rows.predicted[i, members] == TRUTH[members] for i in (0, edit))
            sure, unsure = (rows.confidence[i, members].astype(float) for i in (0, edit))
            lost, gained = int((before & ~after).sum()), int((~before & after).sum())
            assert row[f"n_{group}"] == n
            plain = {
                "accuracy": [after.mean(), *uncertainty.wilson(int(after.sum()), n)],
                "confidence": ends(uncertainty.mean_of_shares(unsure[None])),
            }
            drops[group] = {
                "accuracy": uncertainty.change_of_rate([lost], [gained], n),
                "confidence": uncertainty.mean((sure - unsure)[None], limits=(-1, 1)),
            }
            base = {"accuracy": before.mean(), "confidence": sure.mean()}
            assert ends(drops[group]["accuracy"])[0] == pytest.approx(before.mean() - after.mean(), abs=1e-15)
            assert ends(drops[group]["confidence"])[0] == pytest.approx(sure.mean() - unsure.mean(), abs=1e-12)
            for name, values in plain.items():
                spread = [row[f"{group}_{name}{end}"] for end in ("", "_low", "_high")]
                assert spread == pytest.approx(values, abs=1e-12)
                assert row[f"base_{group}_{name}"] == base[name]
                spread = [row[f"{group}_{name}_drop{end}"] for end in ("", "_low", "_high")]
                assert spread == pytest.approx(ends(drops[group][name]), abs=1e-12)
            p = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
            assert row[f"{group}_p"] == pytest.approx(p, rel=1e-12)
            looked_at = rows.looked_at[edit, members].sum()
            assert row[f"dose_{group}"] == (rows.changed[edit, members].sum() / looked_at if looked_at else 0)
        for name, column in (("accuracy", "selectivity"), ("confidence", "confidence_selectivity")):
            expected = uncertainty.difference(drops["target"][name], drops["complement"][name])
            assert [row[f"{column}{end}"] for end in ("", "_low", "_high")] == pytest.approx(ends(expected), abs=1e-12)
        assert [row[f"{group}_p_adjusted"] for group in ("target", "complement")] == [None, None]


@pytest.mark.parametrize("truth", [[0, 0, 2, 2], [1, 1, 1, 1]])
def test_a_group_without_rows_gives_nothing(truth):
    """Where the concept has no rows, and where no other has."""
    found = measure(scores(truth, np.ones((2, 4))), "health", [1])
    assert found == [dict.fromkeys(MEASURED)]


def test_one_row_says_nothing_of_how_confidence_scatters():
    truth = np.array([0, 1, 1, 2, 2])
    (row,) = measure(scores(truth, np.ones((2, 5)), np.full((2, 5), [[0.9], [0.4]])), "finance", [1])
    ends = [row[f"target_confidence_drop{end}"] for end in ("_low", "", "_high")]
    assert ends == pytest.approx([-1, 0.5, 1])
    assert row["complement_confidence_drop_low"] == pytest.approx(row["complement_confidence_drop_high"])


def test_the_order_of_edits_is_that_of_the_question(rows):
    one, two = measure(rows, "health", [2, 1])
    assert [two, one] == measure(rows, "health", [1, 2])
    assert one != two


def test_p_values_are_adjusted_per_method_over_concepts_and_sites():
    drawn = np.random.default_rng(0)
    table = pa.table(
        {
            "site": ["a", "a", "b", "b"] * 3,
            "role": ["sweep"] * 6 + ["tuned"] * 6,
            "method": ["x", "y", "z"] * 4,
            "target_p": pa.array([*drawn.random(11) ** 4, np.nan], from_pandas=True),
            "complement_p": drawn.random(12) ** 4,
            "target_p_adjusted": pa.nulls(12, pa.float64()),
            "complement_p_adjusted": pa.nulls(12, pa.float64()),
        }
    )
    found = adjust(table)
    assert found.schema.names == table.schema.names
    assert found.schema.types == table.schema.types
    for name in ("target_p", "complement_p"):
        given, adjusted = (found[column].to_pylist() for column in (name, f"{name}_adjusted"))
        own = list(zip(table["role"].to_pylist(), table["method"].to_pylist(), strict=True))
        for method in set(own):
            places = [i for i in range(12) if own[i] == method and given[i] is not None]
            expected = false_discovery_control([given[i] for i in places])
            assert [adjusted[i] for i in places] == pytest.approx(list(expected), rel=1e-12)
        assert [p is None for p in adjusted] == [p is None for p in given]


def test_no_column_has_two_meanings():
    assert len({*MEASURED, *IDENTITY}) == len(MEASURED) + len(IDENTITY)
