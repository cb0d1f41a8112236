"""Edits under `generate`: with a cache, without one, with beams, the same tokens are meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronlens.interventions.edit import LinearErasure, edit
from neuronlens.sites import Site
from tests.conftest import sentences
from tests.interventions.edits import INF, POSITIONS, batch_of, between
from tests.models import LANGUAGE_MODELS
from tests.reference import hooked


def generate(checkpoint, inputs, **how):
    found = checkpoint.model.generate(
        **inputs,
        **{"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        | {"return_dict_in_generate": True, "output_scores": True}
        | how,
    )
    return found.sequences, torch.stack(found.scores)


def assert_same_decoding(one, two):
    assert torch.equal(one[0], two[0])
    torch.testing.assert_close(one[1], two[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_cached_and_uncached_decoding_agree(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    plain = generate(checkpoint, inputs)
    item = between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
    with edit(checkpoint.model, item):
        cached = generate(checkpoint, inputs, use_cache=True)
        uncached = generate(checkpoint, inputs, use_cache=False)
        again = generate(checkpoint, inputs, use_cache=True)
    assert_same_decoding(cached, uncached)
    assert_same_decoding(cached, again)
    first = torch.equal(cached[1][0], plain[1][0])
    assert first == (positions == "generated"), "only the generated tokens are edited after the first answer"
    assert not torch.allclose(cached[1][1:], plain[1][1:], atol=1e-3)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_gate_decides_alike_with_and_without_a_cache(checkpoints, family):
    """It looks at one token at a time, so a token that was let through in the prompt is let through in every later step."""
    checkpoint = checkpoints(family)
    inputs, site = batch_of(checkpoint), Site(1, "resid_post")
    evidence = torch.tensor([0.5, -0.25])[:, None, None].expand(2, 1, 8)
    gated, free = (
        between(checkpoint.config, site, -1.0, 0.9, **how)
        for how in ({"evidence": evidence, "threshold": torch.tensor([0.25])}, {})
    )
    with edit(checkpoint.model, gated) as (dose,):
        cached = generate(checkpoint, inputs, use_cache=True)
        uncached = generate(checkpoint, inputs, use_cache=False)
        assert 0 < dose.changed.sum() < dose.looked_at.sum()
    assert_same_decoding(cached, uncached)
    with edit(checkpoint.model, free):
        assert not torch.equal(generate(checkpoint, inputs)[1], cached[1])
    assert not torch.equal(generate(checkpoint, inputs)[1], cached[1])


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_linear_erasure_decodes_alike_with_and_without_a_cache(checkpoints, family):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    numbers = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    with edit(checkpoint.model, LinearErasure(Site(1, "resid_post"), *numbers)):
        cached, uncached = (generate(checkpoint, inputs, use_cache=use) for use in (True, False))
    assert_same_decoding(cached, uncached)
    assert not torch.equal(generate(checkpoint, inputs)[1], cached[1])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_left_padding_changes_no_decoding(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    item = between(checkpoint.config, Site(1, "mlp_post"), -0.2, INF, positions=positions)
    with edit(checkpoint.model, item):
        together = generate(checkpoint, batch_of(checkpoint))
        for row, text in enumerate(sentences(4)):
            alone = generate(checkpoint, checkpoint.tokenizer([text], return_tensors="pt"))
            assert torch.equal(together[0][row, -6:], alone[0][0, -6:])
            torch.testing.assert_close(together[1][:, row], alone[1][:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_last_stays_the_last_token_of_the_prompt(checkpoints, family):
    """Against a hook by hand that edits one absolute column in a growing, uncached sequence."""
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    column = inputs["input_ids"].shape[1] - 1

    def change(hidden):
        new = hidden.clone()
        new[:, column, ::2] = 0
        return new

    with hooked(checkpoint.model, family, 1, "resid_post", change):
        expected = generate(checkpoint, inputs, use_cache=False)
    with edit(checkpoint.model, between(checkpoint.config, Site(1, "resid_post"), -INF, INF, positions="last")):
        assert_same_decoding(generate(checkpoint, inputs), expected)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_prompt_and_generated_together_are_all(checkpoints, family):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    prompt, generated, everything = (
        between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
        for positions in ("prompt", "generated", "all")
    )
    with edit(checkpoint.model, everything):
        expected = generate(checkpoint, inputs)
    with edit(checkpoint.model, [prompt, generated]):
        assert_same_decoding(generate(checkpoint, inputs), expected)
    with edit(checkpoint.model, generated), edit(checkpoint.model, prompt):
        assert_same_decoding(generate(checkpoint, inputs), expected)


@pytest.mark.parametrize("positions", ["all", "last", "generated"])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_beams_are_edited_alike_with_and_without_cache(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint, 2)
    item = between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
    with edit(checkpoint.model, item):
        cached, uncached = (
            generate(checkpoint, inputs, num_beams=3, max_new_tokens=4, min_new_tokens=4, use_cache=use)
            for use in (True, False)
        )
    assert_same_decoding(cached, uncached)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_nested_edits_compose_in_order_while_generating(checkpoints, family):
    checkpoint = checkpoints(family)
    inputs, site = batch_of(checkpoint), Site(1, "resid_post")
    one = between(checkpoint.config, site, -INF, 0.0, operator="complement_mean", complement_mean=0.5)
    two = between(checkpoint.config, site, 0.5, 0.5, operator="complement_mean", complement_mean=-2.0)
    once = between(checkpoint.config, site, -INF, 0.0, operator="complement_mean", complement_mean=-2.0)
    with edit(checkpoint.model, once):
        expected = generate(checkpoint, inputs)
    with edit(checkpoint.model, one), edit(checkpoint.model, two):
        assert_same_decoding(generate(checkpoint, inputs), expected)
        assert_same_decoding(generate(checkpoint, inputs, use_cache=False), expected)
    with edit(checkpoint.model, two), edit(checkpoint.model, one):
        assert not torch.equal(generate(checkpoint, inputs)[1], expected[1])
    assert "generate" not in checkpoint.model.__dict__


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_an_idle_edit_changes_no_generated_bit(checkpoints, family):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    plain = generate(checkpoint, inputs)
    with edit(checkpoint.model, between(checkpoint.config, Site(1, "resid_post"), INF, -INF)) as (dose,):
        found = generate(checkpoint, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert dose.calls == 6


def test_a_plain_call_after_generate_is_a_prompt_again(checkpoints):
    checkpoint = checkpoints("gpt2")
    inputs, site = batch_of(checkpoint), Site(1, "resid_post")
    item = between(checkpoint.config, site, -INF, INF, positions="generated")
    with edit(checkpoint.model, item) as (dose,):
        generate(checkpoint, inputs, use_cache=False)
        assert dose.changed.sum() > 0
        checkpoint.model(**inputs)
        assert dose.changed.sum() == 0


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "prompt", "last", "generated"])
def test_a_hand_written_decoding_loop_with_a_cache(checkpoints, positions):
    checkpoint = checkpoints("llama")
    inputs = batch_of(checkpoint)
    item = between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
    with edit(checkpoint.model, item):
        expected, scores = generate(checkpoint, inputs, max_new_tokens=3, min_new_tokens=3)
        mask, ids = inputs["attention_mask"], inputs["input_ids"]
        cache, found = None, ids
        for step in range(3):
            positions_of = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = checkpoint.model(
                ids, attention_mask=mask, position_ids=positions_of, past_key_values=cache, use_cache=True
            )
            logits = out.logits[:, -1].clone()
            logits[:, 3] = -INF  # what min_new_tokens does to the end of text
            torch.testing.assert_close(logits, scores[step], rtol=1e-4, atol=1e-4)
            ids, cache = logits.argmax(-1, keepdim=True), out.past_key_values
            found, mask = torch.cat([found, ids], 1), torch.cat([mask, torch.ones_like(ids)], 1)
    np.testing.assert_array_equal(found, expected)
