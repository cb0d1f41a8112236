"""Edits of several sites together do what plain hooks at these sites do, in whole passes and by short cuts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from neuronlens.evaluation.scoring import score_rows
from neuronlens.evaluation.text import text_losses
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Joint
from tests import reference
from tests.conftest import hooks
from tests.evaluation.edits import RESIDUAL, SITES, erasing, gated, half
from tests.evaluation.short_cuts import logits_like_those_of_whole_passes, ragged
from tests.models import FAMILIES, LANGUAGE_MODELS


def joints(config, positions="all"):
    """Of two sites and of all, before the last block and in it."""
    items = {site: half(config, site, positions=positions) for site in SITES}
    pairs = [(SITES[0], SITES[1]), (SITES[1], SITES[2]), (SITES[0], SITES[-2]), (SITES[-1], SITES[2])]
    pairs += [(SITES[-2], SITES[-1]), tuple(SITES)]
    return [
        *(Joint.of(items[site] for site in sites) for sites in pairs),
        Joint.of([gated(items[SITES[0]]), erasing(config, RESIDUAL[-1], positions)]),
    ]


def halved(hidden):
    """What `half` does, on all tokens of a row without padding."""
    new = hidden.clone()
    every_second = new[..., ::2]
    every_second[(every_second >= 0) & (every_second <= 5)] = 0
    return new


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_joint_edit_is_that_of_plain_hooks(checkpoints, family):
    """Row by row without padding, hooks registered from the deepest to the shallowest site: their order is that of the layers."""
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint, rows=3)
    for sites in ((SITES[1], RESIDUAL[-1]), tuple(SITES)):
        item = Joint.of(half(model.config, site) for site in reversed(sites))
        for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
            given = ids[mask.bool()].tolist()
            with ExitStack() as stack:
                for site in reversed(sites):
                    stack.enter_context(reference.hooked(model, family, site.layer, site.component, halved))
                plain = reference.logits_of(model, given)[-1]
            with edit(model, item):
                ours = model(input_ids=batch.input_ids[row : row + 1, : len(given)]).logits[0]
            ours = ours if ours.dim() == 1 else ours[-1]
            assert torch.equal(ours, plain)


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "pooled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_short_cuts_have_the_logits_and_the_dose_of_a_whole_pass(checkpoints, family, positions):
    """Also beside edits of single sites, whose logits they leave as they are."""
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    together, alone = joints(model.config, positions), [half(model.config, site, positions=positions) for site in SITES]
    found = logits_like_those_of_whole_passes(model, [*together, *alone], batch)
    for i, one in enumerate(found):
        assert not any(torch.allclose(one, other, atol=1e-5) for other in found[:i])


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_together_with_nothing_an_edit_is_what_it_is_alone(checkpoints, family):
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    alone = [half(model.config, site) for site in SITES]
    found = logits_like_those_of_whole_passes(model, [*alone, *(Joint((item,)) for item in alone)], batch)
    for own, joint in zip(found[1 : len(alone) + 1], found[len(alone) + 1 :], strict=True):
        torch.testing.assert_close(joint, own, rtol=0, atol=2e-6)


@torch.inference_mode()
def test_the_dose_is_that_of_all_sites(checkpoints):
    checkpoint = checkpoints("gpt2")
    model, batch = checkpoint.model, ragged(checkpoint)
    items = [half(model.config, site) for site in (SITES[0], SITES[3])]
    with (
        edit(model, [Joint.of(items)]) as (together,),
        edit(model, [replace(item, operator="scale:1") for item in items]),
    ):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    with edit(model, items) as apart:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert together.changed.tolist() == sum(dose.changed for dose in apart).tolist()
    assert together.looked_at.tolist() == sum(dose.looked_at for dose in apart).tolist()
    assert together.calls == 2
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_ordinary_text_has_the_losses_of_a_whole_pass(checkpoints, family):
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    together = [*joints(model.config), Joint((half(model.config, RESIDUAL[-1]),))]
    found = dict(text_losses(model, together, batch))
    assert sorted(found) == list(range(len(together) + 1))
    for index, item in enumerate(together, start=1):
        with edit(model, item):
            ((_, whole),) = text_losses(model, [], batch)
        torch.testing.assert_close(found[index], whole, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[index], found[0], rtol=1e-4)


def test_fidelity_is_checked_where_edits_are_together(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("llama")
    together = joints(checkpoint.config)
    exact = score_rows(checkpoint, dataset, together)
    assert exact.no_op_difference == 0
    assert exact.suffix_difference <= min(2e-6, exact.suffix_tolerance)
    monkeypatch.setattr(Joint, "idle", lambda item: item)
    assert score_rows(checkpoint, dataset, together).no_op_difference > 0
