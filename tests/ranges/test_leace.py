"""LEACE: no linear trace of a concept is left, and nothing is changed for it that need not be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.artifact import read_table
from neuronlens.interventions.kinds import LinearErasure
from neuronlens.ranges.leace import fit_erasures, read_erasures, write_erasures
from neuronlens.ranges.statistics import fit_statistics
from tests.ranges.sample import SITE, of_values


def labelled(seed=0, neurons=6, per=(40, 30, 50), rank=None):
    """Rows [N, D] of three concepts with means of their own, correlated neurons and the indicators [N, C]."""
    generator = np.random.default_rng(seed)
    concept = np.repeat(range(3), per)
    rows = generator.normal(size=(len(concept), neurons)) + generator.normal(size=(3, neurons))[concept]
    mix = generator.normal(size=(neurons, neurons))
    if rank is not None:
        mix = generator.normal(size=(neurons, rank)) @ generator.normal(size=(rank, neurons))
    rows = (rows @ mix + 5).astype(np.float32).astype(np.float64)
    return rows, (concept[:, None] == np.arange(3)).astype(float)


def fitted(rows, indicators):
    names = [str(name) for name in indicators.argmax(axis=1)]
    return fit_erasures(fit_statistics(of_values(rows.T, names), SITE))


def erased(erasure, rows):
    """[N, D] by the formula."""
    return rows - np.outer((rows - erasure.mean) @ erasure.probe, erasure.direction)


def covariance(rows, indicator):
    return (rows - rows.mean(0)).T @ (indicator - indicator.mean()) / len(rows)


def whitened_projection(rows, indicator, least=1e-9):
    """x -> x - W^+ P W (x - mean) by eigenvalues: theorem 4.3 with W = (cov(x)^(1/2))^+."""
    centred = rows - rows.mean(0)
    values, vectors = scipy.linalg.eigh(centred.T @ centred / len(rows))
    kept = values > least * values.max()
    vectors, values = vectors[:, kept], values[kept]
    whiten, unwhiten = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    along = whiten @ covariance(rows, indicator)[:, None]
    projection = along @ along.T / (along.T @ along)
    return rows - centred @ (unwhiten @ projection @ whiten).T


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from([None, 3, 1]))
def test_nothing_covaries_with_the_concept_afterwards(seed, neurons, rank):
    rows, indicators = labelled(seed, neurons, rank=rank)
    for at, erasure in enumerate(fitted(rows, indicators)):
        before, after = (np.abs(covariance(part, indicators[:, at])).max() for part in (rows, erased(erasure, rows)))
        assert before > 1e-4
        assert after < 1e-6 * before + 1e-9


def test_no_least_squares_probe_knows_more_than_the_share_of_the_concept():
    """Before, it explains half of the indicator's variance and names it better than the majority rate; afterwards nothing."""
    rows, indicators = labelled(neurons=10)
    erasure, indicator = fitted(rows, indicators)[0], indicators[:, 0]

    def probed(part):
        design = np.column_stack([part, np.ones(len(part))])
        return design @ scipy.linalg.lstsq(design, indicator, cond=1e-9)[0]

    majority = max(indicator.mean(), 1 - indicator.mean())
    assert np.mean((probed(rows) > 0.5) == indicator) > majority + 0.1
    left = probed(erased(erasure, rows))
    np.testing.assert_allclose(left, indicator.mean(), atol=1e-6)
    assert np.mean((left > 0.5) == indicator) == pytest.approx(majority)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from([None, 4, 2]))
def test_it_is_the_whitened_projection_of_the_paper(seed, neurons, rank):
    """Of full rank, and of less, where only a pseudoinverse exists."""
    rows, indicators = labelled(seed, neurons, rank=rank)
    scale = rows.std()
    for at, erasure in enumerate(fitted(rows, indicators)):
        expected = whitened_projection(rows, indicators[:, at])
        np.testing.assert_allclose(erased(erasure, rows), expected, atol=1e-4 * scale)


def test_erasing_twice_is_erasing_once():
    rows, indicators = labelled()
    for erasure in fitted(rows, indicators):
        assert erasure.probe @ erasure.direction == pytest.approx(1)
        once = erased(erasure, rows)
        np.testing.assert_allclose(erased(erasure, once), once, atol=1e-9)


def test_no_other_erasure_changes_less():
    """x - M (x - mean) erases wherever M s = s: of rank one with another probe, or any other M. Both norms of the theorem."""
    rows, indicators = labelled(neurons=8)
    generator = np.random.default_rng(1)
    centred = rows - rows.mean(0)
    precision = np.linalg.inv(np.cov(rows.T, ddof=0))

    def cost(after):
        moved = after - rows
        return np.array([np.mean(np.sum(moved**2, axis=1)), np.mean(np.sum(moved @ precision * moved, axis=1))])

    for at, erasure in enumerate(fitted(rows, indicators)):
        own, s = cost(erased(erasure, rows)), erasure.direction
        nearby = [erasure.probe + size * generator.normal(size=8) * np.abs(erasure.probe) for size in (0.01, 0.1, 1)]
        maps = [np.outer(s, probe) / (probe @ s) for probe in (s, *nearby, *generator.normal(size=(10, 8)))]
        own_map = np.outer(s, erasure.probe)
        for step in (0.01, 1.0):
            free = own_map + step * generator.normal(size=(8, 8))
            maps.append(free - np.outer(free @ s - s, s) / (s @ s))
        for projection in maps:
            after = rows - centred @ projection.T
            assert np.abs(covariance(after, indicators[:, at])).max() < 1e-6 * np.abs(s).max()
            assert (cost(after) >= own * (1 - 1e-9)).all()


def test_projecting_out_the_difference_of_the_means_changes_more():
    """The orthogonal projection along s erases too, at a higher price where neurons are correlated."""
    rows, indicators = labelled(neurons=8, seed=3)
    erasure = fitted(rows, indicators)[0]
    unit = erasure.direction / np.linalg.norm(erasure.direction)
    projected = rows - np.outer((rows - rows.mean(0)) @ unit, unit)
    assert np.sum((erased(erasure, rows) - rows) ** 2) < 0.9 * np.sum((projected - rows) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_concept_without_a_linear_trace_is_left_alone(seed):
    """The same rows for every concept: what is left of the covariance is rounding, and must not be scaled up."""
    own = np.random.default_rng(seed).normal(size=(40, 6))
    rows, indicators = np.tile(own, (3, 1)), np.repeat(np.eye(3), 40, axis=0)
    for erasure in fitted(rows, indicators):
        np.testing.assert_allclose(erased(erasure, rows), rows, atol=1e-9)


def test_constant_neurons_stay_as_they_are():
    rows, indicators = labelled()
    rows[:, 2] = 0.1
    for erasure in fitted(rows, indicators):
        np.testing.assert_allclose(erased(erasure, rows)[:, 2], 0.1, atol=1e-12)


def test_more_neurons_than_rows_are_erased_on_the_fit_rows():
    rows, indicators = labelled(neurons=30, per=(5, 6, 7))
    for at, erasure in enumerate(fitted(rows, indicators)):
        assert np.isfinite(erasure.probe).all()
        assert np.abs(covariance(erased(erasure, rows), indicators[:, at])).max() < 1e-8


def test_erasures_come_back_as_they_went(tmp_path):
    rows, indicators = labelled()
    sites = (SITE, dataclasses.replace(SITE, layer=2))
    found = [dataclasses.replace(erasure, site=site) for site in sites for erasure in fitted(rows, indicators)]
    write_erasures(tmp_path / "leace.parquet", found)
    table = read_table(tmp_path / "leace.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "site": "string",
        "concept": "string",
        "neuron": "int32",
        "direction": "double",
        "probe": "double",
        "mean": "double",
    }
    width = len(found[0].mean)
    assert table["neuron"].to_pylist() == [*range(width)] * len(found)
    back = read_erasures(tmp_path / "leace.parquet")
    assert [(part.site, part.concept) for part in back] == [(part.site, part.concept) for part in found]
    for one, two in zip(found, back, strict=True):
        for name in ("direction", "probe", "mean"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_edit_is_the_formula_and_leaves_padding_alone(dtype):
    rows, indicators = labelled()
    erasure = fitted(rows, indicators)[1]
    hidden = torch.from_numpy(rows.reshape(10, 12, 6)).to(dtype)
    before = hidden.clone()
    real = torch.arange(12) < torch.arange(1, 11)[:, None]
    item = LinearErasure.of(erasure)
    edited, changed = item.apply(hidden, real)
    assert torch.equal(hidden, before), "never in place"
    assert edited.dtype == dtype
    assert torch.equal(edited[~real], hidden[~real])
    expected = erased(erasure, hidden.double().numpy().reshape(-1, 6)).reshape(hidden.shape)
    step = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype] * (1 + np.abs(expected))
    assert (np.abs(edited.double().numpy() - expected) <= step)[real.numpy()].all()
    assert changed.shape == hidden.shape
    assert torch.equal(changed, real[..., None].expand_as(hidden))
    assert item.width == 6
    idle, _ = item.idle().apply(hidden, real)
    assert torch.equal(idle, hidden)
