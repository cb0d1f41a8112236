"""What an edit of one site is, apart from any model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuronlens.interventions.kinds import Intervention, Joint, LinearErasure, where
from neuronlens.interventions.operators import Target
from neuronlens.ranges.leace import Erasure
from neuronlens.ranges.selection import fit_ranges
from neuronlens.sites import Site
from tests.interventions.edits import INF, of_neurons
from tests.ranges.sample import statistics

SITE = Site(1, "resid_post")


def tensors_of(item):
    """All that an edit holds, whatever its kind."""
    found = []
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        found += tensors_of(value) if isinstance(value, Target) else [value] if isinstance(value, torch.Tensor) else []
    return found


def gated(least=0.5):
    """Three neurons that agree by evidence of their own, against two backgrounds."""
    evidence = torch.tensor([[[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]], [[-1.0, -2.0, -4.0], [0.0, 0.0, 0.0]]])
    return of_neurons(SITE, torch.tensor([0, 2, 3]), 0.0, 1.0, evidence=evidence, threshold=torch.tensor([least, 1.0]))


def erasure():
    return LinearErasure(SITE, *torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


def test_a_fitted_erasure_is_an_edit_in_single_precision():
    numbers = np.random.default_rng(0).normal(size=(3, 4))
    item = LinearErasure.of(Erasure(SITE, "sports", *numbers), "pooled", "mean")
    assert (item.site, item.positions, item.pooling) == (SITE, "pooled", "mean")
    for tensor, exact in zip((item.direction, item.probe, item.mean), numbers, strict=True):
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), exact, rtol=1e-6)


@pytest.mark.parametrize("item", [gated(), of_neurons(SITE, torch.tensor([1]), 0.0, 1.0), erasure()])
def test_all_of_an_edit_moves_to_another_device(item):
    moved = item.to("meta")
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    assert len(tensors_of(moved)) == len(tensors_of(item))
    assert {tensor.device.type for tensor in tensors_of(item)} == {"cpu"}, "the one that was given stays where it is"


def test_a_gate_opens_where_the_evidence_reaches_both_thresholds():
    """Neurons 0, 2 and 3 in range add 1, 2 and 4, out of range they take as much away; at least one of them has to be in range."""
    rows = [
        [0.5, 9.0, 0.5, 0.5],
        [0.5, 9.0, 0.5, 5.0],
        [5.0, 9.0, 5.0, 0.5],
        [5.0, 9.0, 5.0, 5.0],
        [0.5, 9.0, 5.0, 0.5],
    ]
    hidden = torch.tensor([rows])
    tokens = torch.tensor([[True, True, True, True, False]])
    edited, inside = gated().apply(hidden, tokens)
    assert inside[0].tolist() == [[True] * 3, [False] * 3, [False, False, True], [False] * 3, [False] * 3]
    assert edited[0, 0].tolist() == [0.0, 9.0, 0.0, 0.0]
    assert edited[0, 2].tolist() == [5.0, 9.0, 5.0, 0.0]
    assert torch.equal(edited[0, [1, 3, 4]], hidden[0, [1, 3, 4]])
    assert torch.equal(gated().changed(hidden, tokens), inside)
    assert gated(1.0).changed(hidden, tokens)[0, 2].any(), "a sum of 1 reaches a threshold of 1"
    assert not gated(1.01).changed(hidden, tokens)[0, 2].any()


def test_every_interval_is_dampened_towards_its_own_middle():
    lower, upper = torch.tensor([[0.0, 10.0]]), torch.tensor([[2.0, 16.0]])
    item = of_neurons(SITE, torch.tensor([0]), lower, upper, operator="dampen:0.5")
    hidden = torch.tensor([[[0.0], [2.0], [5.0], [10.0], [16.0], [20.0]]])
    edited, inside = item.apply(hidden, torch.ones(1, 6, dtype=torch.bool))
    assert inside[0, :, 0].tolist() == [True, True, False, True, True, False]
    for at, (low, high) in ((0, (0.0, 2.0)), (1, (0.0, 2.0)), (3, (10.0, 16.0)), (4, (10.0, 16.0))):
        alone = of_neurons(SITE, torch.tensor([0]), low, high, operator="dampen:0.5")
        expected, _ = alone.apply(hidden[:, at : at + 1], torch.ones(1, 1, dtype=torch.bool))
        assert edited[0, at] == expected[0, 0]
    assert not torch.equal(edited, hidden)


def test_an_edit_of_ranges_has_their_very_numbers():
    for gate in ("none", "agreement"):
        ranges = fit_ranges(statistics(), "b", top=0.5, gate=gate)
        item = Intervention.of(ranges, "dampen:0.5", "last", "mean")
        assert (item.site, item.operator, item.positions, item.pooling) == (ranges.site, "dampen:0.5", "last", "mean")
        assert item.neurons.tolist() == ranges.neurons.tolist()
        for name in ("lower", "upper"):
            np.testing.assert_array_equal(getattr(item, name), getattr(ranges, name))
            np.testing.assert_array_equal(getattr(item.target, name), getattr(ranges, name)[:, 0])
        for name in ("mean", "std", "complement_mean", "complement_std", "pooled_mean"):
            np.testing.assert_array_equal(getattr(item.target, name), getattr(ranges, name).astype(np.float32))
        if gate == "none":
            assert item.evidence is item.threshold is None
        else:
            np.testing.assert_array_equal(item.evidence[0], ranges.agreement.inside)
            np.testing.assert_array_equal(item.evidence[1], ranges.agreement.outside)
            np.testing.assert_array_equal(item.threshold, ranges.agreement.threshold)
    plain = Intervention.of(ranges)
    assert (plain.operator, plain.positions, plain.pooling) == ("zero", "all", "auto")


def test_an_erasure_is_its_formula_on_the_tokens_named():
    item = erasure()
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[True, False, True], [False, False, True]])
    edited, changed = item.apply(hidden, tokens)
    by_hand = hidden - ((hidden - item.mean) * item.probe).sum(dim=-1, keepdim=True) * item.direction
    torch.testing.assert_close(edited[tokens], by_hand[tokens])
    assert torch.equal(edited[~tokens], hidden[~tokens])
    assert torch.equal(changed, tokens[..., None].expand(2, 3, 4))
    assert torch.equal(item.idle().apply(hidden, tokens)[0], hidden)


def test_several_sites_come_in_the_order_in_which_a_call_meets_them():
    parts = [of_neurons(site, torch.tensor([0]), -INF, INF) for site in (Site(2, "mlp_post"), SITE)]
    item = Joint.of(parts)
    assert item.items == (parts[1], parts[0])
    assert item.site == SITE
    assert where(item) == "sites resid_post.1 and mlp_post.2"
    assert where(parts[0]) == "site mlp_post.2"
    assert [torch.isinf(part.lower).all().item() for part in item.idle().items] == [True, True]
    tokens, hidden = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, 1)
    assert not any(part.changed(hidden, tokens).any() for part in item.idle().items)
    assert all(part.changed(hidden, tokens).all() for part in item.items)
