"""The tables of the fit: every neuron once, what is not known left empty."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.overlap import bhattacharyya, histogram_overlap
from neuronlens.ranges.saliency import top_set
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import QUANTILES, fit_statistics
from neuronlens.ranges.tables import (
    examples_table,
    jaccard_table,
    overlap_table,
    polysemanticity_table,
    ranges_table,
    read_ranges,
    statistics_table,
)
from tests.ranges.sample import (
    CONCEPTS,
    DOSES,
    KINDS,
    SITE,
    SWEEP,
    activations,
    members,
    of_values,
    others,
    same,
    statistics,
    tokens,
)

RANKINGS = [("mean_abs", 0.5), ("d_prime", 0.25), ("d_prime", 0.5)]


SCHEMAS = {
    "statistics": {
        "site": "string",
        "concept": "string",
        "neuron": "int32",
        "n": "int32",
        **dict.fromkeys(("mean", "std", "min", "max", "skewness", "kurtosis"), "double"),
        **dict.fromkeys(("kolmogorov_smirnov", "anderson_darling"), "double"),
        **dict.fromkeys(("jarque_bera_p", "kolmogorov_smirnov_p", "anderson_darling_p"), "double"),
        **dict.fromkeys(
            ("jarque_bera_p_adjusted", "kolmogorov_smirnov_p_adjusted", "anderson_darling_p_adjusted"), "double"
        ),
        "complement_n": "int32",
        "complement_mean": "double",
        "complement_std": "double",
        **dict.fromkeys(("mean_abs", "probeless", "d_prime", "auroc", "separation", "random", "probe"), "double"),
        "quantiles": "fixed_size_list<item: double>[9]",
        "histogram_low": "double",
        "histogram_high": "double",
        "histogram": "fixed_size_list<item: int32>[64]",
    },
    "ranges": {
        **dict.fromkeys(("site", "concept", "role", "saliency"), "string"),
        "top": "double",
        "range": "string",
        "base": "string",
        "tau": "double",
        "threshold": "double",
        "gate": "string",
        "neuron": "int32",
        "lower": "list<item: float>",
        "upper": "list<item: float>",
        **dict.fromkeys(DOSES, "double"),
        **dict.fromkeys(("mean", "std", "complement_mean", "complement_std", "pooled_mean"), "double"),
        **dict.fromkeys(("evidence_inside", "evidence_outside", "gate_threshold"), "list<item: float>"),
    },
    "overlap": {
        "site": "string",
        "concept": "string",
        "other": "string",
        "neuron": "int32",
        "histogram_overlap": "float",
        "bhattacharyya": "float",
    },
    "polysemanticity": {
        "site": "string",
        "saliency": "string",
        "top": "double",
        "neuron": "int32",
        "concepts": "int32",
    },
    "jaccard": {
        "site": "string",
        "saliency": "string",
        "top": "double",
        "concept": "string",
        "other": "string",
        "jaccard": "double",
    },
    "examples": {
        "site": "string",
        "neuron": "int32",
        "end": "string",
        "place": "int8",
        "row": "int64",
        "value": "float",
    },
}


@pytest.mark.parametrize("concepts", [CONCEPTS, CONCEPTS[:2]])
def test_columns_and_types_are_what_readers_were_told(concepts):
    """What is read by SQL and by other programs: no column may change its name or type unnoticed, whatever the number of concepts."""
    found = activations()
    kept = np.flatnonzero([name in concepts for name in found.concept])
    ours = fit_statistics(of_values(found.values[SITE][:, kept], [found.concept[i] for i in kept]), SITE)
    tables = {
        "statistics": statistics_table(ours, ["d_prime"]),
        "ranges": ranges_table(sweep_ranges(ours, Config.model_validate(SWEEP))),
        "overlap": overlap_table(ours),
        "polysemanticity": polysemanticity_table(ours, RANKINGS),
        "jaccard": jaccard_table(ours, RANKINGS),
        "examples": examples_table(ours),
    }
    for name, table in tables.items():
        assert {field.name: str(field.type) for field in table.schema} == SCHEMAS[name], name
        assert set(table["site"].to_pylist()) == {str(SITE)}, name


def floats_without_nan(table):
    """Names of the columns of floats, after looking for NaN in them, in what they hold that is not null."""
    names = [field.name for field in table.schema if str(field.type) in ("double", "float")]
    for name in names:
        found = table[name].drop_null().to_numpy()
        assert not np.isnan(found).any(), name
    return names


def test_the_statistics_table_explains_every_neuron(tmp_path):
    found = activations()
    ours = fit_statistics(found, SITE, ordinary=tokens())
    write_table(tmp_path / "statistics.parquet", statistics_table(ours, ["d_prime"]))
    table = read_table(tmp_path / "statistics.parquet")
    assert table.num_rows == 3 * 12
    tests = ("jarque_bera_p", "kolmogorov_smirnov_p", "anderson_darling_p")
    assert table.column_names == [
        *("site", "concept", "neuron", "n", "mean", "std", "min", "max", "skewness", "kurtosis"),
        *("kolmogorov_smirnov", "anderson_darling", *tests, *(f"{name}_adjusted" for name in tests)),
        *("complement_n", "complement_mean", "complement_std"),
        *("mean_abs", "probeless", "d_prime", "auroc", "separation", "random", "probe"),
        *("quantiles", "histogram_low", "histogram_high", "histogram"),
    ]
    rows = table.to_pylist()
    assert [(row["concept"], row["neuron"]) for row in rows] == [(name, j) for name in CONCEPTS for j in range(12)]
    row = rows[12 + 7]
    own, rest = members(found, "b")[7].astype(np.float64), others(found, "b")[7].astype(np.float64)
    assert (row["site"], row["n"], row["complement_n"]) == (str(SITE), len(own), len(rest))
    assert (row["min"], row["max"]) == (own.min(), own.max())
    expected = {
        "mean": own.mean(),
        "std": own.std(),
        "mean_abs": np.abs(own).mean(),
        "skewness": scipy.stats.skew(own),
        "kurtosis": scipy.stats.kurtosis(own),
        "complement_mean": rest.mean(),
        "complement_std": rest.std(),
        "probeless": abs(own.mean() - rest.mean()),
        "separation": ours.saliency("separation", "b")[7],
        "random": ours.saliency("random", "b")[7],
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(row["quantiles"], np.quantile(own, QUANTILES), rtol=1e-12)
    assert sum(row["histogram"]) == len(own)


def test_what_is_not_known_is_null_and_never_nan():
    """Three rows are too few for a test of normality; a constant neuron has none whatever its rows."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(5, 46))
    values[4] = 0.1
    ours = fit_statistics(of_values(values, ["a"] * 3 + ["b"] * 20 + ["c"] * 23), SITE)
    table = statistics_table(ours, ["mean_abs"])
    names = floats_without_nan(table)
    assert {"kolmogorov_smirnov", "anderson_darling_p_adjusted", "separation", "probe"} <= set(names)
    for name in ("kolmogorov_smirnov", "anderson_darling", "kolmogorov_smirnov_p", "anderson_darling_p_adjusted"):
        known = [value is not None for value in table[name].to_pylist()]
        assert known == [False] * 5 + ([True] * 4 + [False]) * 2, name
    for name in ("mean", "std", "skewness", "kurtosis", "d_prime", "auroc", "separation"):
        assert table[name].null_count == 0, name


def test_the_probe_has_a_column_that_is_empty_unless_it_ranks():
    ours = statistics()
    without, ranked = (statistics_table(ours, names)["probe"] for names in (["d_prime"], ["probe"]))
    assert without.null_count == len(without)
    np.testing.assert_array_equal(ranked.to_numpy(), ours.saliencies("probe").reshape(-1))
    assert without.type == ranked.type, "tables of several sites are put together"


def test_the_overlap_table_has_every_pair_and_neuron_once():
    ours = statistics()
    table = overlap_table(ours)
    floats_without_nan(table)
    pairs = list(combinations(CONCEPTS, 2))
    keys = list(zip(table["concept"].to_pylist(), table["other"].to_pylist(), table["neuron"].to_pylist(), strict=True))
    assert keys == [(*pair, neuron) for pair in pairs for neuron in range(12)]
    np.testing.assert_array_equal(
        table["histogram_overlap"].to_numpy().reshape(3, 12), histogram_overlap(ours.histogram)
    )
    np.testing.assert_array_equal(table["bhattacharyya"].to_numpy().reshape(3, 12), bhattacharyya(ours.moments))


def test_polysemanticity_counts_the_top_sets_a_neuron_is_in():
    ours = statistics()
    rows = polysemanticity_table(ours, RANKINGS).to_pylist()
    for saliency, top in RANKINGS:
        sets = [set(top_set(ours.saliency(saliency, name), top).tolist()) for name in CONCEPTS]
        expected = {j: sum(j in chosen for chosen in sets) for j in set().union(*sets)}
        found = {row["neuron"]: row["concepts"] for row in rows if (row["saliency"], row["top"]) == (saliency, top)}
        assert found == expected


def test_the_jaccard_table_compares_top_sets_pair_by_pair():
    ours = statistics()
    rows = jaccard_table(ours, RANKINGS).to_pylist()
    assert len(rows) == len(RANKINGS) * 3
    for row in rows:
        one, two = (
            set(top_set(ours.saliency(row["saliency"], row[name]), row["top"]).tolist())
            for name in ("concept", "other")
        )
        assert row["jaccard"] == pytest.approx(len(one & two) / len(one | two))


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("asked", [SWEEP, {}, {"interventions": {"controls": [], "tuned": None}}])
def test_ranges_come_back_from_their_table(tmp_path, asked, with_tokens):
    """Every kind, gate and control, with empty intervals, unknown doses and bounds in float32."""
    found = sweep_ranges(statistics(per=40, with_tokens=with_tokens), Config.model_validate(asked))
    write_table(tmp_path / "ranges.parquet", ranges_table(found))
    back = read_ranges(tmp_path / "ranges.parquet")
    assert len(back) == len(found)
    assert all(same(one, two) for one, two in zip(found, back, strict=True))
    if asked is SWEEP:
        assert {part.kind for part in back} == {*KINDS, "random_neurons", "random_ranges", "other_concept"}
        assert {part.label for part in back} >= {"discriminative+agreement", "random_neurons+agreement", "full"}
        assert max(part.lower.shape[1] for part in back) > 1


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("gate", ["none", "agreement"])
def test_ranges_of_one_method_come_back_alone(tmp_path, gate, count):
    whole = statistics()
    found = fit_ranges(whole, "b", top=count / whole.width, gate=gate)
    assert len(found.neurons) == count
    write_table(tmp_path / "ranges.parquet", ranges_table([found]))
    (back,) = read_ranges(tmp_path / "ranges.parquet")
    assert same(found, back)
    assert (back.agreement is None) == (gate == "none")


def test_nulls_and_never_nan_stand_in_the_table():
    table = ranges_table(sweep_ranges(statistics(with_tokens=False), Config.model_validate(SWEEP)))
    for field in table.schema:
        if str(field.type) in ("double", "float"):
            assert not np.isnan(table[field.name].drop_null().to_numpy()).any(), field.name
    gated = np.array(table["gate"].to_pylist()) == "agreement"
    for name in ("evidence_inside", "evidence_outside", "gate_threshold"):
        np.testing.assert_array_equal([value is not None for value in table[name].to_pylist()], gated)


def test_a_dose_that_is_not_known_is_null():
    column = ranges_table([fit_ranges(statistics(with_tokens=False), "a", top=0.5)])["dose_ordinary"]
    assert column.null_count == len(column)
