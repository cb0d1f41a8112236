"""Edits under `generate`: with a cache, without one, with beams, the same tokens are meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from neuronlens.errors import UserError
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import LinearErasure
from neuronlens.sites import Site
from tests.conftest import sentences
from tests.interventions.edits import INF, POSITIONS, batch_of, between
from tests.models import LANGUAGE_MODELS
from tests.reference import hooked

GREEDY = {
    "max_new_tokens": 6,
    "min_new_tokens": 6,
    "do_sample": False,
    "pad_token_id": 0,
    "return_dict_in_generate": True,
}


def generate(checkpoint, inputs, **how):
    found = checkpoint.model.generate(
        **inputs,
        **GREEDY | {"output_scores": True} | how,
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


@pytest.mark.parametrize("positions", POSITIONS)
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


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_beams_of_a_batch_are_those_of_each_prompt(checkpoints, family, positions):
    """Rows of a cache change places whenever a beam overtakes another; those of another prompt, padded otherwise, stay out of it."""
    checkpoint = checkpoints(family)
    item = between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
    how = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True}
    with edit(checkpoint.model, item):
        together = checkpoint.model.generate(**batch_of(checkpoint), **GREEDY, **how)
        for row, text in enumerate(sentences(4)):
            inputs = checkpoint.tokenizer([text], return_tensors="pt")
            alone = checkpoint.model.generate(**inputs, **GREEDY, **how)
            mine = slice(2 * row, 2 * row + 2)
            assert torch.equal(together.sequences[mine, -6:], alone.sequences[:, -6:])
            torch.testing.assert_close(together.sequences_scores[mine], alone.sequences_scores, rtol=1e-4, atol=1e-4)
    assert together.beam_indices.max() > 2, "beams of more than one prompt"
    moves = together.beam_indices[:, 1:6] != together.beam_indices[:, :5]
    assert moves.any(), "some row of the cache has changed its place"


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_what_is_sampled_is_drawn_from_the_edited_model(checkpoints, family, positions):
    """Against the uncached edited model's logits for the very tokens that were drawn, several continuations a prompt."""
    checkpoint = checkpoints(family)
    item = between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, positions=positions)
    how = {"do_sample": True, "top_k": 0, "num_return_sequences": 3, "output_logits": True}
    drawn = []
    with edit(checkpoint.model, item):
        for use_cache in (True, False):
            torch.manual_seed(0)
            found = checkpoint.model.generate(**batch_of(checkpoint), **GREEDY | how, use_cache=use_cache)
            drawn.append((found.sequences, torch.stack(found.logits)))
    assert_same_decoding(*drawn)
    assert len({tuple(row) for row in drawn[0][0].tolist()}) > 4, "continuations of one prompt differ"


@pytest.mark.parametrize("positions", POSITIONS)
def test_going_on_from_a_cache_is_going_on(checkpoints, positions):
    """What an earlier call has been through belongs to the prompt, whether or not the edit was there to see it."""
    checkpoint = checkpoints("llama")
    whole = {"input_ids": batch_of(checkpoint, 1)["input_ids"]}
    beginning = {"input_ids": whole["input_ids"][:, :2]}
    everywhere = between(checkpoint.config, Site(1, "resid_post"), -INF, INF, positions=positions)
    with torch.inference_mode():
        if positions in ("last", "generated", "pooled"):  # nothing that the beginning holds is edited
            cache = checkpoint.model(**beginning, use_cache=True).past_key_values
            with edit(checkpoint.model, everywhere):
                continued = generate(checkpoint, whole, past_key_values=cache)
                assert_same_decoding(continued, generate(checkpoint, whole))
        with edit(checkpoint.model, everywhere) as (dose,):
            cache = checkpoint.model(**beginning, use_cache=True).past_key_values
        with edit(checkpoint.model, everywhere) as (dose,):
            checkpoint.model(whole["input_ids"][:, 2:], past_key_values=cache)
            count = whole["input_ids"].shape[1] - 2
            edited = {"all": count, "prompt": count, "generated": 0}.get(positions, 1)
            assert dose.looked_at.tolist() == [8 * edited]


UNFOLLOWED = [
    {"cache_implementation": "static"},
    {"cache_implementation": "paged"},
    {"prompt_lookup_num_tokens": 2},
    {"prefill_chunk_size": 2},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"guidance_scale": 2.0},
    {"custom_generate": "somebody/else"},
    {"num_beam_groups": 2, "num_beams": 4},
]


@pytest.mark.parametrize("how", UNFOLLOWED, ids=lambda how: next(iter(how)))
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_decoding_that_cannot_be_followed_is_refused(checkpoints, family, how):
    checkpoint = checkpoints(family)
    name = next(iter(how)).replace("cache_implementation", "static or paged cache")
    with (
        edit(checkpoint.model, between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9)),
        pytest.raises(UserError, match=name),
    ):
        generate(checkpoint, batch_of(checkpoint), **how)


@pytest.mark.parametrize("how", ["argument", "positional", "own"])
def test_it_is_refused_however_it_is_asked_for(checkpoints, how):
    checkpoint = checkpoints("llama")
    model, inputs = checkpoint.model, batch_of(checkpoint)
    asked = GenerationConfig(prompt_lookup_num_tokens=2, max_new_tokens=2, pad_token_id=0)
    with edit(model, between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9)):
        given, model.generation_config = model.generation_config, asked if how == "own" else model.generation_config
        try:
            with pytest.raises(UserError, match="cannot be followed under prompt_lookup_num_tokens"):
                if how == "positional":
                    model.generate(inputs["input_ids"], asked)
                else:
                    model.generate(**inputs, **({"generation_config": asked} if how == "argument" else {}))
        finally:
            model.generation_config = given
        with pytest.raises(UserError, match="cannot be followed under assistant_model"):
            model.generate(**inputs, assistant_model=model)
        assert generate(checkpoint, inputs, guidance_scale=1.0, num_beam_groups=1)


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
