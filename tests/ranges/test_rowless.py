"""A fit without rows makes what it can, to a stated resolution, and says what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from neuronlens.config import Config
from neuronlens.errors import ConfigError, DatasetError, UserError
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.leace import fit_erasures
from neuronlens.ranges.rowless import without_rows
from neuronlens.ranges.saliency import auroc_scores
from neuronlens.ranges.selection import assemble, fit_ranges
from neuronlens.ranges.statistics import fit_statistics, summed_statistics
from neuronlens.ranges.tables import examples_table, overlap_table, statistics_table
from neuronlens.streaming.summary import Summary
from tests.ranges.sample import CONCEPTS, SITE, activations, tokens


def both(rows="correct", per=120):
    """The statistics of some rows, and of what is kept of the same rows in batches of other sizes."""
    found, summary = activations(per=per), Summary({}, {})
    fit = np.flatnonzero([split == "fit" for split in found.split])
    for own in np.split(fit, [3, 50, 51, 200]):
        part = Summary.of(
            found.values[SITE][:, own], found.row[own], [found.concept[i] for i in own], found.correct[own]
        )
        summary = summary.merge(part)
    how = {"rows": rows, "ordinary": tokens()}
    return fit_statistics(found, SITE, **how), summed_statistics(summary, SITE, CONCEPTS, **how)


@pytest.mark.parametrize("rows", ["correct", "all"])
def test_the_tables_are_those_of_the_rows(rows):
    kept, summed = both(rows)
    assert overlap_table(kept)["histogram_overlap"].equals(overlap_table(summed)["histogram_overlap"])
    assert examples_table(kept).equals(examples_table(summed))
    one, two = (statistics_table(part, ["mean_abs"]) for part in (kept, summed))
    assert one.schema.equals(two.schema)
    for name in ("n", "min", "max", "complement_n", "random", "histogram", "histogram_low", "histogram_high"):
        assert one[name].equals(two[name]), name
    for name in ("mean", "std", "skewness", "kurtosis", "complement_mean", "complement_std", "mean_abs", "d_prime"):
        np.testing.assert_allclose(one[name].to_numpy(), two[name].to_numpy(), rtol=1e-9, atol=1e-11, err_msg=name)
    for name in ("kolmogorov_smirnov", "anderson_darling_p_adjusted", "separation", "probe"):
        assert two[name].null_count == len(two), name
    quantiles = [np.stack([part.quantiles[at] for at in range(len(CONCEPTS))]) for part in (kept, summed)]
    width = np.stack([part.histogram.width for part in summed.distributions])[:, None]
    assert (np.abs(quantiles[0] - quantiles[1]) <= width).all()


def test_auroc_is_off_by_no_more_than_the_pairs_that_share_a_bin():
    kept, summed = both()
    exact, estimated = auroc_scores(kept.values), summed.saliencies("auroc")
    assert np.abs(exact - estimated).max() < 0.02
    assert (estimated[:, 4] == 0).all(), "a constant neuron tells nothing apart"


@pytest.mark.parametrize("kind", ["gaussian", "quantile", "full"])
def test_ranges_and_doses_are_nearly_those_of_the_rows(kind):
    for concept in CONCEPTS:
        one, two = (fit_ranges(part, concept, kind=kind, tau=1.5, top=0.5) for part in both())
        np.testing.assert_array_equal(one.neurons, two.neurons)
        if kind != "quantile":
            np.testing.assert_allclose(one.lower, two.lower, rtol=1e-6)
            np.testing.assert_allclose(one.upper, two.upper, rtol=1e-6)
        np.testing.assert_allclose(one.dose_target, two.dose_target, atol=0.03)
        np.testing.assert_allclose(one.dose_complement, two.dose_complement, atol=0.03)
        np.testing.assert_allclose(one.dose_ordinary, two.dose_ordinary, atol=0.03)


def test_the_dose_on_all_other_concepts_counts_every_row_once():
    """Of concepts of unequal size, in intervals that are whole histograms of one and nothing of another."""
    values = np.concatenate([np.full((1, 10), -8.0), np.full((1, 30), 8.0), np.linspace(-1, 1, 60)[None]], axis=1)
    of = ["a"] * 10 + ["b"] * 30 + ["c"] * 60
    summary = Summary.of(values.astype(np.float32), np.arange(100), of, np.ones(100, dtype=bool))
    ours = summed_statistics(summary, SITE, CONCEPTS)
    assert (ours.values, ours.pooled.shape) == ((), (1, 0))
    for concept, expected in (("a", 30 / 90), ("b", 0.0), ("c", 30 / 40)):
        found = fit_ranges(ours, concept, kind="full", top=1.0)
        assert (found.dose_target[0], found.dose_complement[0]) == (1.0, 1.0)
        identity = {
            name: getattr(found, name)
            for name in ("saliency", "top", "kind", "base", "tau", "threshold", "gate", "role")
        }
        edges = (np.array([[value]], dtype=np.float32) for value in (4.0, 12.0))
        part = assemble(ours, concept, identity, found.neurons, *edges)
        assert part.dose_complement[0] == pytest.approx(expected, abs=1e-6)


def test_what_needs_rows_is_refused():
    summed = both()[1]
    for what, asked in {
        "a probe": lambda: summed.saliency("probe", "a"),
        "the saliency separation": lambda: summed.saliency("separation", "a"),
        "the complement": lambda: summed.complement("a"),
        "a discriminative range": lambda: fit_ranges(summed, "a", kind="discriminative"),
        "the gate on agreement": lambda: fit_ranges(summed, "a", gate="agreement", top=0.5),
        "the control leace": lambda: fit_erasures(summed),
    }.items():
        with pytest.raises(UserError) as caught:
            asked()
        assert str(caught.value) == (
            f"site {SITE}: {what} needs the activations of single rows, which were not kept. "
            "Audit again with --set extract.keep_rows=true."
        )


def test_the_default_sweep_goes_without_and_says_so():
    config, notes = without_rows(Config())
    assert notes == [
        "quantiles, auroc and doses are estimated from histograms of up to 256 bins, and of the tests of normality there is "
        "Jarque-Bera's alone",
        "left out, as activations of single rows were not kept: random_ranges, leace, the tuned method",
    ]
    assert config.interventions.tuned is None
    assert not {"random_ranges", "leace"} & {*config.interventions.controls}
    found = sweep_ranges(both()[1], config)
    assert {ranges.kind for ranges in found} == {"gaussian", "full", "random_neurons", "other_concept"}


def test_candidates_that_need_no_rows_stay():
    tuned = {"gate": ["none", "agreement"], "saliency": ["separation", "d_prime"], "ranges": ["gaussian"]}
    asked = {"interventions": {"tuned": tuned, "controls": ["other_concept"]}}
    config, notes = without_rows(Config.model_validate(asked))
    left = config.interventions.tuned
    assert (left.gate, left.saliency, left.ranges) == (("none",), ("d_prime",), ("gaussian",))
    assert notes[-1].endswith("kept: some candidates of the tuned method")


def test_what_is_left_of_lists_stays_in_its_order():
    asked = {
        "seed": 7,
        "fit": {"saliency": ["mean", "probe", "d_prime"], "minimum_rows": 3},
        "interventions": {
            "ranges": ["quantile", "discriminative", "full"],
            "controls": ["leace", "other_concept"],
            "tuned": {"ranges": ["discriminative", "quantile"], "gate": "none", "saliency": "d_prime"},
        },
    }
    given = Config.model_validate(asked)
    config, notes = without_rows(given)
    assert config.fit.saliency == ("mean", "d_prime")
    assert config.interventions.ranges == ("quantile", "full")
    assert config.interventions.controls == ("other_concept",)
    assert config.interventions.tuned.ranges == ("quantile",)
    assert notes[-1].endswith("kept: probe, discriminative, leace, some candidates of the tuned method")
    assert (config.seed, config.fit.minimum_rows, config.evaluate) == (7, 3, given.evaluate), "all else as it was"


def test_where_nothing_needs_rows_nothing_is_left_out():
    given = Config.model_validate({"interventions": {"controls": ["other_concept"], "tuned": None}})
    config, notes = without_rows(given)
    assert config == given
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"fit": {"saliency": ["probe", "separation"]}}, r"fit\.saliency: probe, separation needs"),
        ({"interventions": {"ranges": ["discriminative"]}}, r"interventions\.ranges: discriminative needs"),
    ],
)
def test_nothing_left_is_refused(asked, where):
    with pytest.raises(ConfigError, match=where) as caught:
        without_rows(Config.model_validate(asked))
    assert caught.value.cure == "Ask for others, or --set extract.keep_rows=true."


def test_a_concept_with_a_single_row_is_refused():
    found = activations()
    for rows, right, kept in (("correct", True, 1), ("correct", False, 0), ("all", False, 1)):
        one = Summary.of(found.values[SITE][:, :1], found.row[:1], ["a"], np.array([right]))
        with pytest.raises(DatasetError, match=rf"concept 'a' has {kept} fit rows"):
            summed_statistics(one, SITE, CONCEPTS, rows=rows)
    with pytest.raises(DatasetError, match="concept 'a' has 0 fit rows predicted right"):
        summed_statistics(Summary({}, {}), SITE, CONCEPTS)


def test_two_rows_of_a_concept_are_enough():
    found = activations()
    first = [i for name in CONCEPTS for i in [j for j in range(len(found)) if found.concept[j] == name][:2]]
    of = [found.concept[i] for i in first]
    few = Summary.of(found.values[SITE][:, first], found.row[first], of, np.ones(len(first), dtype=bool))
    for rows in ("correct", "all"):
        ours = summed_statistics(few, SITE, CONCEPTS, rows=rows)
        assert [part.n for part in ours.moments] == [2, 2, 2]
        assert ours.ordinary.values.shape == (12, 0), "no tokens where none were read"
