"""Edits that share a call do what each does alone."""

from __future__ import annotations

import pytest
import torch

from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation import stacked
from neuronlens.evaluation.stacked import Stacked, edits_together
from neuronlens.interventions.edit import edit
from tests.evaluation.edits import SITES, erasing, gated, half
from tests.evaluation.short_cuts import logits_like_those_of_whole_passes, ragged
from tests.models import FAMILIES


@torch.inference_mode()
@pytest.mark.parametrize("together", [2, 3, 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_has_the_logits_and_the_dose_of_a_whole_pass(checkpoints, family, together, monkeypatch):
    """Whatever their positions, and however many neurons each looks at."""
    monkeypatch.setattr("neuronlens.evaluation.deciding.edits_together", lambda *_: together)
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    edits = [half(model.config, site, "zero", positions) for site in SITES for positions in ("all", "pooled", "all")]
    edits += [gated(edits[0]), erasing(model.config, SITES[2], "all")]
    logits_like_those_of_whole_passes(model, edits, batch)


@torch.inference_mode()
def test_a_stack_is_an_edit(checkpoints):
    checkpoint = checkpoints("llama")
    model, batch = checkpoint.model, ragged(checkpoint, rows=4)
    items = (half(model.config, SITES[0]), gated(half(model.config, SITES[0])))
    stack = Stacked(items)
    hidden = torch.randn(4, 3, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[True, True, False]] * 4)
    edited, counts = stack.apply(hidden, tokens)
    for item, rows in zip(items, (slice(0, 2), slice(2, 4)), strict=True):
        alone, inside = item.apply(hidden[rows], tokens[rows])
        assert torch.equal(edited[rows], alone)
        assert torch.equal(counts[rows, :, 0], inside.sum(dim=-1))
    assert torch.equal(stack.changed(hidden, tokens), counts)
    assert torch.equal(stack.idle().apply(hidden, tokens)[0], hidden)
    with edit(model, stack) as (dose,):
        deciding_logits(model, batch)
    assert dose.changed.shape == (4,)


def test_a_processor_runs_one_edit_at_a_time():
    assert edits_together(torch.device("cpu"), 1) == 1
    assert edits_together(torch.device("cuda"), 1000) == stacked._TOKENS // 1000
    assert edits_together(torch.device("cuda"), 1 << 20) == 1
