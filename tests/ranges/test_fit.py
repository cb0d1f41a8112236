"""The fit: ranges that hold what they promise, doses counted by hand, tables that come back as they went."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.activations.store import Activations
from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config
from neuronlens.errors import DatasetError
from neuronlens.ranges.fit import (
    BINS,
    QUANTILES,
    fit_ranges,
    fit_rows,
    fit_statistics,
    ranges_table,
    read_ranges,
    statistics_table,
    sweep_ranges,
)
from neuronlens.sites import Site

SITE = Site(1, "resid_post")
CONCEPTS = ("a", "b", "c")


def activations(seed=0, neurons=12, per=25, constant=(4,)):
    """Three concepts with means of their own; a share of rows is predicted wrong, some are test rows."""
    generator = np.random.default_rng(seed)
    concept = [name for name in CONCEPTS for _ in range(per)]
    centre = generator.normal(size=(neurons, 3))[:, np.repeat(range(3), per)]
    values = (centre + generator.normal(size=centre.shape) * generator.uniform(0.1, 2, size=(neurons, 1))).astype(
        np.float32
    )
    values[list(constant)] = 0.1
    predicted = [name if generator.random() < 0.8 else "a" for name in concept]
    count = len(concept)
    return Activations(
        {SITE: values},
        row=np.arange(count),
        concept=concept,
        split=["test" if i % 5 == 0 else "fit" for i in range(count)],
        position=np.zeros(count, dtype=np.int64),
        tokens=np.ones(count, dtype=np.int64),
        predicted=predicted,
        correct=np.array([said == name for said, name in zip(predicted, concept, strict=True)]),
        confidence=np.ones(count, dtype=np.float32),
    )


def members(found, concept, rows="correct"):
    """Fit rows of a concept, picked one at a time."""
    picked = [
        i
        for i in range(len(found))
        if found.split[i] == "fit" and found.concept[i] == concept and (rows == "all" or found.correct[i])
    ]
    return found.values[SITE][:, picked]


@pytest.mark.parametrize("rows", ["correct", "all"])
def test_statistics_are_numpys_on_the_fit_rows(rows):
    found = activations()
    statistics = fit_statistics(found, SITE, rows=rows)
    assert statistics.concepts == CONCEPTS
    for at, concept in enumerate(CONCEPTS):
        own = members(found, concept, rows).astype(np.float64)
        rest = np.concatenate([members(found, name, rows) for name in CONCEPTS if name != concept], axis=1).astype(
            np.float64
        )
        np.testing.assert_array_equal(statistics.values[at], members(found, concept, rows))
        for part, values in ((statistics.moments[at], own), (statistics.rest[at], rest)):
            assert part.n == values.shape[1]
            np.testing.assert_allclose(part.mean, values.mean(1), rtol=1e-12)
            np.testing.assert_allclose(part.std, values.std(1), rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(statistics.quantiles[at], np.quantile(own, QUANTILES, axis=1), rtol=1e-12)


def test_the_test_split_is_never_looked_at():
    found = activations()
    poisoned = found.values[SITE].copy()
    poisoned[:, [split == "test" for split in found.split]] = 1e6
    other = fit_statistics(dataclasses.replace(found, values={SITE: poisoned}), SITE)
    same = fit_statistics(found, SITE)
    for ours, theirs in zip(same.moments + same.rest, other.moments + other.rest, strict=True):
        np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(same.high, other.high)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1.0, 1e-3, 2000.0]))
def test_the_histogram_is_numpys_per_neuron(seed, count, scale):
    """On edges that a neuron's concepts share; every value is in exactly one bin."""
    found = activations(seed, neurons=4, per=4 + count % 40, constant=())
    found = dataclasses.replace(found, values={SITE: found.values[SITE] * np.float32(scale)})
    statistics = fit_statistics(found, SITE, rows="all")
    for at, concept in enumerate(CONCEPTS):
        own = members(found, concept, "all").astype(np.float64)
        for neuron in range(4):
            edges = np.linspace(statistics.low[neuron], statistics.high[neuron], BINS + 1)
            # a value within rounding of an edge may stand on either side of it
            near = np.abs(own[neuron][:, None] - edges[1:-1]).min(axis=1) < 1e-9 * (edges[-1] - edges[0])
            expected, _ = np.histogram(own[neuron], BINS, (statistics.low[neuron], statistics.high[neuron]))
            found_counts = statistics.histogram[at, :, neuron]
            assert found_counts.sum() == own.shape[1]
            assert np.abs(found_counts - expected).sum() <= 2 * near.sum()


def test_the_histogram_of_a_constant_neuron_holds_all_rows_in_one_bin():
    statistics = fit_statistics(activations(constant=(4,)), SITE)
    for at, part in enumerate(statistics.moments):
        assert sorted(statistics.histogram[at, :, 4])[-2:] == [0, part.n]
    assert statistics.low[4] == statistics.high[4] == np.float32(0.1)


def test_the_largest_value_falls_into_the_last_bin():
    statistics = fit_statistics(activations(), SITE, rows="all")
    for neuron in (0, 1, 2):
        assert statistics.histogram[:, -1, neuron].sum() >= 1
        assert statistics.histogram[:, 0, neuron].sum() >= 1


def test_gaussian_bounds_are_mean_and_tau_stds():
    found = activations()
    ranges = fit_ranges(fit_statistics(found, SITE), "b", saliency="mean_abs", top=0.5, tau=1.5)
    own = members(found, "b").astype(np.float64)
    expected = own.mean(1)[ranges.neurons], own.std(1, ddof=0)[ranges.neurons]
    np.testing.assert_allclose(ranges.lower[:, 0], expected[0] - 1.5 * expected[1], rtol=1e-6)
    np.testing.assert_allclose(ranges.upper[:, 0], expected[0] + 1.5 * expected[1], rtol=1e-6)
    assert ranges.lower.dtype == ranges.upper.dtype == np.float32
    assert ranges.lower.shape == (6, 1)


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-7, 2001.7, 0.0])
def test_a_constant_neuron_lies_in_its_own_range_and_in_the_full_one(value):
    """Bounds are inclusive. The reference's infinity times zero is NaN and masks nothing."""
    found = activations(constant=())
    found.values[SITE][4] = value
    statistics = fit_statistics(found, SITE)
    for kind, tau in (("gaussian", 2.0), ("full", None)):
        ranges = fit_ranges(statistics, "a", top=1.0, kind=kind, tau=tau)
        at = ranges.neurons.tolist().index(4)
        assert ranges.lower[at, 0] <= np.float32(value) <= ranges.upper[at, 0]
        assert (ranges.dose_target[at], ranges.dose_complement[at]) == (1.0, 1.0)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_doses_are_shares_of_fit_rows_counted_one_by_one(concept, tau):
    found = activations()
    ranges = fit_ranges(fit_statistics(found, SITE), concept, top=0.7, tau=tau)
    own = members(found, concept)
    rest = np.concatenate([members(found, name) for name in CONCEPTS if name != concept], axis=1)
    for at, neuron in enumerate(ranges.neurons):
        for values, dose in ((own, ranges.dose_target[at]), (rest, ranges.dose_complement[at])):
            inside = [ranges.lower[at, 0] <= value <= ranges.upper[at, 0] for value in values[neuron]]
            assert dose == pytest.approx(sum(inside) / len(inside), abs=1e-12)


def test_a_full_range_masks_everything_and_knows_no_tau():
    ranges = fit_ranges(fit_statistics(activations(), SITE), "c", top=0.5, kind="full", tau=2.0)
    assert ranges.tau is None
    assert (ranges.dose_target == 1).all()
    assert (ranges.dose_complement == 1).all()
    assert np.isneginf(ranges.lower).all()
    assert np.isposinf(ranges.upper).all()


def test_the_control_takes_as_many_neurons_with_ranges_of_their_own():
    found = activations(neurons=40)
    statistics = fit_statistics(found, SITE)
    ranked, control = (
        fit_ranges(statistics, "b", top=0.3, tau=2.0, kind=kind) for kind in ("gaussian", "random_neurons")
    )
    assert len(control.neurons) == len(ranked.neurons) == 12
    assert control.saliency == "random"
    assert set(control.neurons) != set(ranked.neurons)
    at = statistics.index("b")
    mean, std = statistics.moments[at].mean[control.neurons], statistics.moments[at].std[control.neurons]
    np.testing.assert_allclose(control.lower[:, 0], mean - 2 * std, rtol=1e-6)
    np.testing.assert_array_equal(control.neurons, fit_ranges(statistics, "b", top=0.3, kind="random_neurons").neurons)
    assert set(fit_ranges(statistics, "b", top=0.3, kind="random_neurons", seed=1).neurons) != set(control.neurons)
    whole = fit_ranges(statistics, "b", top=0.3, kind="random_neurons", tau=None)
    assert whole.tau is None
    assert np.isposinf(whole.upper).all()


def test_replacements_are_the_other_concepts_means():
    found = activations()
    ranges = fit_ranges(fit_statistics(found, SITE), "a", top=0.5)
    rest = np.concatenate([members(found, "b"), members(found, "c")], axis=1).astype(np.float64)
    np.testing.assert_allclose(ranges.replacement, rest.mean(axis=1)[ranges.neurons], rtol=1e-12)


def same(one, two):
    """Two Ranges, field by field."""
    return all(
        np.array_equal(getattr(one, field.name), getattr(two, field.name))
        if isinstance(getattr(one, field.name), np.ndarray)
        else getattr(one, field.name) == getattr(two, field.name)
        for field in dataclasses.fields(one)
    )


@pytest.mark.parametrize("saliency", [["mean_abs", "d_prime"], ["random"], ["mean_abs", "mean_abs"]])
def test_ranges_come_back_from_their_table(tmp_path, saliency):
    config = Config.model_validate({"interventions": {"top": [0.2, 0.5]}, "fit": {"saliency": saliency}})
    found = sweep_ranges(fit_statistics(activations(), SITE), config)
    write_table(tmp_path / "ranges.parquet", ranges_table(found))
    back = read_ranges(tmp_path / "ranges.parquet")
    assert len(back) == len(found)
    assert all(same(one, two) for one, two in zip(found, back, strict=True))
    assert all(
        two.neurons.dtype == one.neurons.dtype and two.lower.dtype == np.float32
        for one, two in zip(found, back, strict=True)
    )


def test_a_sweep_has_each_method_of_each_concept_once():
    config = Config()
    found = sweep_ranges(fit_statistics(activations(neurons=20), SITE), config)
    keys = [(part.concept, part.saliency, part.top, part.kind, part.tau) for part in found]
    assert len(set(keys)) == len(keys)
    # per concept and share: (2 saliencies + 1 control) x (2 taus + the whole neuron)
    assert len(keys) == 3 * 2 * 3 * 3


def test_the_statistics_table_explains_every_neuron(tmp_path):
    found = activations()
    statistics = fit_statistics(found, SITE)
    write_table(tmp_path / "statistics.parquet", statistics_table(statistics, 0))
    table = read_table(tmp_path / "statistics.parquet")
    assert table.num_rows == 3 * 12
    promised = {
        "site",
        "concept",
        "neuron",
        "n",
        "mean",
        "std",
        "min",
        "max",
        "skewness",
        "kurtosis",
        "quantiles",
        "histogram",
    }
    assert promised <= set(table.column_names)
    assert {"mean_abs", "d_prime", "random", "jarque_bera_p"} <= set(table.column_names)
    row = table.filter((np.array(table["concept"]) == "b") & (np.array(table["neuron"]) == 7)).to_pylist()[0]
    own = members(found, "b")[7].astype(np.float64)
    assert row["n"] == len(own)
    assert (row["min"], row["max"]) == (own.min(), own.max())
    assert row["mean_abs"] == pytest.approx(np.abs(own).mean(), rel=1e-12)
    np.testing.assert_allclose(row["quantiles"], np.quantile(own, QUANTILES), rtol=1e-12)
    assert sum(row["histogram"]) == len(own)


def test_a_concept_with_fewer_than_two_rows_is_named():
    found = activations()
    wrong = dataclasses.replace(found, correct=np.array([name != "b" for name in found.concept]))
    with pytest.raises(DatasetError, match=r"fit\.rows: concept 'b' has 0 fit rows predicted right.*Use fit\.rows=all"):
        fit_statistics(wrong, SITE)
    assert len(fit_rows(wrong, "all", CONCEPTS)["b"]) == 20
