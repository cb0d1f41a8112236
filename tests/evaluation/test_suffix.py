"""Resuming after a block gives, bit for bit, what the whole pass with the same hooks gives."""

from __future__ import annotations

import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.hidden import record_blocks
from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation.suffix import (
    resume_after,
    resumed_passes,
    run_unedited,
    split_at_head,
)
from neuronlens.interventions.edit import edit
from tests import reference
from tests.conftest import hooks, sentences
from tests.evaluation.edits import SITES, erasing, gated, half
from tests.models import CLASSIFIERS, FAMILIES, LANGUAGE_MODELS, LAYERS


def forward_of(checkpoint):
    """The deciding logits of one ragged batch."""
    encoded = checkpoint.tokenizer(sentences(5))["input_ids"]
    batch = collate(encoded, range(5), pad_id=0, device="cpu")
    return lambda: deciding_logits(checkpoint.model, batch)


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "pooled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_suffix_equals_the_whole_pass(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    model, forward = checkpoint.model, forward_of(checkpoint)
    edits = [half(model.config, site, operator, positions) for site in SITES for operator in ("zero", "dampen")]
    edits += [gated(edits[0]), erasing(model.config, SITES[2], positions)]
    plain = forward()
    unedited, _, outputs = run_unedited(model, edits, forward)
    resumed = [*resumed_passes(model, edits, outputs, forward)]
    assert torch.equal(unedited, plain)
    assert len(resumed) == len(edits)
    for item, (logits, dose) in zip(edits, resumed, strict=True):
        with edit(model, item) as (full_dose,):
            full = forward()
        assert torch.equal(logits, full), item.site
        assert torch.equal(dose.changed, full_dose.changed)
        assert not torch.equal(logits, plain), item.site
    assert torch.equal(forward(), plain)
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_before_compute_nothing(checkpoints, family):
    checkpoint = checkpoints(family)
    model, forward = checkpoint.model, forward_of(checkpoint)
    blocks = model.get_submodule(reference.BLOCKS[family])
    with record_blocks(model, [2]) as outputs:
        forward()
    ran: list[int] = []
    handles = [
        block.get_submodule(reference.DOWN[family]).register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, block in enumerate(blocks)
    ]
    with resume_after(model, 2, outputs[2]):
        forward()
    for handle in handles:
        handle.remove()
    assert ran == [2]


@pytest.mark.parametrize("family", [CLASSIFIERS[0], LANGUAGE_MODELS[0]])
def test_the_model_is_restored_after_an_exception(checkpoints, family):
    model = checkpoints(family).model
    with pytest.raises(KeyError), resume_after(model, 2, None):
        assert hooks(model) == 2
        raise KeyError
    assert hooks(model) == 0


def test_an_abandoned_sweep_leaves_no_trace(checkpoints):
    checkpoint = checkpoints("gpt2")
    edits, forward = [half(checkpoint.config, SITES[3])] * 2, forward_of(checkpoint)
    _, _, outputs = run_unedited(checkpoint.model, edits, forward)
    passes = resumed_passes(checkpoint.model, edits, outputs, forward)
    next(passes)
    passes.close()
    assert hooks(checkpoint.model) == 0


def test_edits_of_what_the_last_block_gives_are_told_apart(checkpoints):
    checkpoint = checkpoints("llama")
    ends, others = split_at_head(checkpoint.model, [half(checkpoint.config, site) for site in SITES])
    assert [str(SITES[i]) for i in ends] == [f"resid_post.{LAYERS - 1}"]
    assert sorted([*ends, *others]) == list(range(len(SITES)))


@torch.inference_mode()
def test_no_block_before_changes_nothing(checkpoints):
    forward = forward_of(checkpoints("llama"))
    plain = forward()
    with resume_after(checkpoints("llama").model, 0, None):
        assert torch.equal(forward(), plain)
