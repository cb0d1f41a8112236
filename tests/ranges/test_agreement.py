"""The gate: many neurons that each know little together know whether a token is the concept's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.activations.ordinary import Ordinary
from neuronlens.interventions.kinds import Intervention
from neuronlens.ranges.agreement import fit_agreement
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from tests.ranges.sample import SITE, inside, of_values


def flags(generator, share, count):
    """[K, count] each neuron in range with its own probability."""
    return generator.random((len(share), count)) < np.asarray(share)[:, None]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.booleans())
def test_evidence_is_the_log_likelihood_ratio_of_each_bit(seed, neurons, with_tokens):
    """Against the complement and against ordinary tokens, between 1 % and 99 %; to a 512th of a nat, and added up."""
    generator = np.random.default_rng(seed)
    own, rest = (flags(generator, generator.random(neurons), count) for count in (50, 80))
    tokens = flags(generator, generator.random(neurons), 40 if with_tokens else 0)
    gate = fit_agreement(own, rest, tokens)
    others = [rest, tokens] if with_tokens else [rest]
    assert gate.inside.dtype == gate.outside.dtype == gate.threshold.dtype == np.float32
    assert gate.inside.shape == gate.outside.shape == (len(others), neurons)
    share = own.mean(1).clip(0.01, 0.99)
    for at, other in enumerate(others):
        theirs = other.mean(1).clip(0.01, 0.99)
        np.testing.assert_allclose(gate.inside[at], np.log(share / theirs), atol=1 / 511)
        np.testing.assert_allclose(gate.outside[at], np.log((1 - share) / (1 - theirs)), atol=1 / 511)
        expected = [
            sum(gate.inside[at, k] if bit else gate.outside[at, k] for k, bit in enumerate(row)) for row in own.T
        ]
        np.testing.assert_allclose(gate.evidence(own)[at], expected, atol=1e-4)
    np.testing.assert_array_equal(gate.passes(own), (gate.threshold <= gate.evidence(own).T).all(axis=1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_of_thresholds_nearly_as_good_as_the_best_the_one_that_shuts_out_least_of_the_concept(seed, with_tokens):
    """Tried one by one on every row of the concept, in every combination; 201 rows or fewer are all candidates."""
    generator = np.random.default_rng(seed)
    own, rest = flags(generator, [0.7, 0.6, 0.5, 0.8], 61), flags(generator, [0.3, 0.5, 0.5, 0.4], 70)
    tokens = flags(generator, [0.2, 0.6, 0.4, 0.5], 50 if with_tokens else 0)
    others = [rest, tokens] if with_tokens else [rest]
    gate = fit_agreement(own, rest, tokens)

    def shares(threshold):
        passed = [(threshold <= gate.evidence(part).T).all(axis=1).mean() for part in (own, *others)]
        return passed[0], passed[0] - max(passed[1:])

    found = shares(gate.threshold)
    tried = [shares(np.array(one)) for one in itertools.product(*map(np.unique, gate.evidence(own)))]
    best = max(worth for _, worth in tried)
    assert found in tried
    assert found[1] >= best - 0.02
    assert found == max(one for one in tried if one[1] >= best - 0.02)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_the_sum_of_a_row_of_the_concept(seed):
    """Not a number between two of them, which a new row may or may not reach."""
    drawn = np.random.default_rng(seed)
    concept, complement, ordinary = (drawn.random((7, n)) < share for n, share in ((30, 0.7), (60, 0.4), (50, 0.3)))
    gate = fit_agreement(concept, complement, ordinary)
    for threshold, sums in zip(gate.threshold, gate.evidence(concept), strict=True):
        assert threshold in sums


def test_neurons_that_tell_one_thing_each_are_asked_two_questions():
    """Half of them know the concept from the complement alone, half from ordinary text alone: one sum could not tell both."""
    generator = np.random.default_rng(4)
    share = {"own": [0.8] * 40, "rest": [0.3] * 20 + [0.8] * 20, "tokens": [0.8] * 20 + [0.3] * 20}
    fitted, fresh = ([flags(generator, part, 500) for part in share.values()] for _ in range(2))
    gate = fit_agreement(*fitted)
    own, rest, tokens = (gate.passes(part).mean() for part in fresh)
    assert own > 0.9
    assert max(rest, tokens) < 0.05


def test_many_weak_neurons_separate_what_no_single_one_does():
    generator = np.random.default_rng(0)
    share = np.full(200, 0.55)
    ours = [flags(generator, share, 500) for _ in range(2)]
    others, tokens = ([flags(generator, share - 0.1, 2000) for _ in range(2)] for _ in range(2))
    gate = fit_agreement(ours[0], others[0], tokens[0])
    single = np.abs(ours[0].mean(1) - others[0].mean(1)).max()
    assert single < 0.25
    # on rows that the gate was not fitted on; two normal distributions 200 x 0.1 x 0.4 nats apart overlap by an eighth
    assert gate.passes(ours[1]).mean() > 0.85
    assert gate.passes(others[1]).mean() < 0.15
    assert gate.passes(tokens[1]).mean() < 0.15


def test_neurons_that_know_nothing_have_no_say():
    generator = np.random.default_rng(1)
    share = generator.uniform(0.2, 0.8, 300)
    gate = fit_agreement(*(flags(generator, share, 20000) for _ in range(2)), flags(generator, share, 0))
    assert np.abs(gate.inside).max() < 0.1
    assert np.abs(gate.outside).max() < 0.1
    same = flags(generator, share, 100)
    still = fit_agreement(same, same, same)
    assert (still.inside == 0).all()
    assert (still.outside == 0).all()
    assert still.passes(same).all(), "where nothing is known, nobody is shut out"


def test_no_neuron_outvotes_all_others():
    """One that is always in range on the concept and never elsewhere counts for less than five nats."""
    gate = fit_agreement(np.ones((1, 1000), bool), np.zeros((1, 1000), bool), np.zeros((1, 0), bool))
    assert gate.inside.item() == pytest.approx(np.log(99), abs=0.002)
    assert gate.outside.item() == pytest.approx(-np.log(99), abs=0.002)


def test_neurons_that_ordinary_text_drives_as_well_have_no_say_about_it():
    """All tell the complement apart, but neurons 5 to 39 are in range on ordinary text, too."""
    generator = np.random.default_rng(2)
    own, rest = flags(generator, np.full(40, 0.8), 400), flags(generator, np.full(40, 0.2), 400)
    tokens = flags(generator, [0.2] * 5 + [0.8] * 35, 400)
    aware, unaware = fit_agreement(own, rest, tokens), fit_agreement(own, rest, tokens[:, :0])
    assert np.abs(aware.inside[1, 5:]).max() < 0.15
    assert aware.inside[0, 5:].min() > 1
    assert unaware.passes(tokens).mean() > 0.9
    assert aware.passes(tokens).mean() < 0.1
    assert aware.passes(own).mean() > 0.9


def planted(neurons=400, per=150):
    """Concept a shifts every neuron a little; text is like the others."""
    generator = np.random.default_rng(3)
    concept = np.repeat(["a", "b", "c"], per)
    values = generator.normal(size=(neurons, 3 * per)) + 0.25 * (concept == "a")
    text = Ordinary(generator.normal(size=(neurons, 300)).astype(np.float32), [""] * 300)
    return fit_statistics(of_values(values, concept), SITE, ordinary=text)


@pytest.mark.parametrize("kind", ["gaussian", "quantile", "discriminative"])
def test_a_gated_range_edits_where_it_is_in_range_and_the_gate_passes(kind):
    """Doses recounted; the gate takes what single ranges would do to others."""
    ours = planted()
    gated, plain = (fit_ranges(ours, "a", top=1.0, kind=kind, tau=1.0, gate=gate) for gate in ("agreement", "none"))
    np.testing.assert_array_equal(gated.lower, plain.lower)
    assert plain.agreement is None
    parts = (ours.values[0], ours.complement("a"), ours.ordinary.values)
    for name, part in zip(("dose_target", "dose_complement", "dose_ordinary"), parts, strict=True):
        within = inside(part[gated.neurons], gated.lower, gated.upper)
        np.testing.assert_allclose(getattr(plain, name), within.mean(axis=1), atol=1e-12)
        both = within & gated.agreement.passes(within)
        np.testing.assert_allclose(getattr(gated, name), both.mean(axis=1), atol=1e-12)
    if kind == "discriminative":
        assert gated.dose_target.mean() > 0.8 * plain.dose_target.mean()
        assert gated.dose_complement.mean() < 0.3 * plain.dose_complement.mean()
        assert gated.dose_ordinary.mean() < 0.3 * plain.dose_ordinary.mean()


@pytest.mark.parametrize("neurons", [7, 400, 6000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_and_numpy_decide_alike_on_every_fit_row(neurons, dtype):
    """However many neurons are added up, in whatever order: the row that the threshold was taken from passes."""
    ours = planted(neurons, per=40)
    if dtype == torch.bfloat16:  # as a model in bfloat16 would have given them
        rounded = [torch.from_numpy(part).to(dtype).float().numpy() for part in ours.values]
        ours = fit_statistics(of_values(np.concatenate(rounded, axis=1), np.repeat(["a", "b", "c"], 40)), SITE)
    ranges = fit_ranges(ours, "a", top=1.0, kind="gaussian", tau=1.0, gate="agreement")
    item = Intervention.of(ranges)
    for part in (ours.values[0], ours.complement("a"), ours.ordinary.values):
        within = inside(part[ranges.neurons], ranges.lower, ranges.upper)
        expected = within & ranges.agreement.passes(within)
        hidden = torch.from_numpy(part.T.copy())[None].to(dtype)
        _, changed = item.apply(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
        np.testing.assert_array_equal(changed[0].numpy().T, expected)
        gate = ranges.agreement
        for yes, no, found in zip(gate.inside, gate.outside, gate.evidence(within), strict=True):
            exact = np.where(within, yes[:, None], no[:, None]).astype(np.float64)
            np.testing.assert_array_equal(found, exact.sum(axis=0))


def test_the_gate_looks_at_one_token_at_a_time():
    """Tokens decide alike in any company, and those that the edit may not touch stay as they are."""
    ours = planted(60, per=40)
    item = Intervention.of(fit_ranges(ours, "a", top=1.0, tau=1.0, gate="agreement"))
    hidden = torch.from_numpy(np.concatenate(ours.values, axis=1).T.copy()).reshape(10, 12, 60)
    everywhere = torch.ones(10, 12, dtype=torch.bool)
    edited, changed = item.apply(hidden, everywhere)
    passed = changed.any(dim=-1)
    assert passed.any()
    assert not passed.all()
    assert torch.equal(edited[~passed], hidden[~passed])
    for row, column in ((0, 0), (3, 7), (9, 11)):
        alone, _ = item.apply(hidden[row : row + 1, column : column + 1], everywhere[:1, :1])
        assert torch.equal(alone[0, 0], edited[row, column])
    some = torch.arange(120).reshape(10, 12) % 3 == 0
    part, within = item.apply(hidden, some)
    assert torch.equal(part, torch.where(some[..., None], edited, hidden))
    assert torch.equal(within, changed & some[..., None])


def test_an_idle_gated_edit_changes_nothing():
    ours = planted(60, per=40)
    item = Intervention.of(fit_ranges(ours, "a", top=1.0, tau=1.0, gate="agreement")).idle()
    hidden = torch.from_numpy(ours.values[0].T.copy())[None]
    edited, changed = item.apply(hidden, torch.ones(1, 40, dtype=torch.bool))
    assert torch.equal(edited, hidden)
    assert not changed.any()
