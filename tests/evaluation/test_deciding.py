"""What decides a row, by short cuts, is what the whole pass with the same hooks gives."""

from __future__ import annotations

import pytest
import torch

from neuronlens.activations import head
from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation.deciding import deciding_passes
from neuronlens.sites import Site
from tests import reference
from tests.evaluation.edits import SITES, erasing, gated, half
from tests.evaluation.short_cuts import logits_like_those_of_whole_passes, ragged
from tests.models import FAMILIES, LANGUAGE_MODELS, LAYERS

LAST = Site(LAYERS - 1, "resid_post")


@torch.inference_mode()
@pytest.mark.parametrize("logits_at_once", [1, 1 << 30])
@pytest.mark.parametrize("positions", ["all", "pooled", "last", "prompt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_has_the_logits_and_the_dose_of_a_whole_pass(
    checkpoints, family, positions, logits_at_once, monkeypatch
):
    """At every site, in the order of the edits' numbers or not, one by one behind the last block or all at once."""
    monkeypatch.setattr(head, "_TOGETHER_BYTES", logits_at_once)
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    edits = [half(model.config, site, operator, positions) for site in SITES for operator in ("zero", "dampen")]
    edits += [gated(half(model.config, LAST, positions=positions)), erasing(model.config, LAST, positions)]
    plain = deciding_logits(model, batch)
    unedited, *edited = logits_like_those_of_whole_passes(model, edits, batch)
    torch.testing.assert_close(unedited, plain, rtol=0, atol=2e-6)
    assert sum(not torch.allclose(logits, plain, atol=1e-4) for logits in edited) > len(edits) / 2


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_padding_on_the_left_changes_nothing(checkpoints, family):
    checkpoint = checkpoints(family)
    edits = [half(checkpoint.config, site) for site in SITES]
    left, right = (
        {index: logits for index, logits, _ in deciding_passes(checkpoint.model, edits, ragged(checkpoint, side))}
        for side in ("left", "right")
    )
    for index, logits in left.items():
        torch.testing.assert_close(logits, right[index], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_behind_the_last_block_run_no_block(checkpoints, family):
    """However many they are, the blocks run once, and the head once more."""
    checkpoint = checkpoints(family)
    model = checkpoint.model
    ran: list[int] = []
    handles = [
        block.get_submodule(reference.DOWN[family]).register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, block in enumerate(model.get_submodule(reference.BLOCKS[family]))
    ]
    calls: list[int] = []
    handles.append(model.register_forward_hook(lambda *_: calls.append(0)))
    edits = [half(model.config, LAST, operator) for operator in ("zero", "dampen", "mean") for _ in range(3)]
    assert len([*deciding_passes(model, edits, ragged(checkpoint))]) == 10
    for handle in handles:
        handle.remove()
    assert ran == list(range(LAYERS))
    assert len(calls) == 2
