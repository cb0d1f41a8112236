"""What is written behind a prompt is what plain decoding writes, prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from neuronlens.errors import CheckpointError, UserError
from neuronlens.interventions.continuation import Decoding, side_by_side
from neuronlens.interventions.edit import edit
from neuronlens.sites import Site
from tests.conftest import sentences
from tests.interventions.edits import INF, POSITIONS, between

FAMILIES = ("gpt2", "llama", "gemma2")


def item_of(checkpoint, **how):
    return between(checkpoint.config, Site(1, "resid_post"), -1.0, 0.9, **how)


def by_hand(checkpoint, prompt, items, steps):
    """Greedy text without a cache, and what was in range and looked at when each sequence was seen alone."""
    ids = checkpoint.tokenizer(prompt, return_tensors="pt")["input_ids"]
    width = ids.shape[1]
    with torch.inference_mode():
        for _ in range(steps):
            with edit(checkpoint.model, items):
                new = checkpoint.model(ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, new], 1)
            if int(new) == checkpoint.tokenizer.eos_token_id:
                break
    return checkpoint.tokenizer.decode(ids[0, width:], skip_special_tokens=True), ids


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_plain_calls(checkpoints, family):
    checkpoint = checkpoints(family)
    item = item_of(checkpoint)
    prompts = sentences(3)
    found = side_by_side(checkpoint, [item], prompts, Decoding(8))
    for prompt, each in zip(prompts, found, strict=True):
        assert each.prompt == prompt
        assert each.unedited == by_hand(checkpoint, prompt, [], 8)[0]
        assert each.edited == by_hand(checkpoint, prompt, [item], 8)[0]
    assert any(each.edited != each.unedited for each in found)


def test_the_dose_is_of_every_token_once(checkpoints):
    """Greedy text without its last token, which no call has seen, is looked at as a whole."""
    checkpoint = checkpoints("llama")
    item, prompt = item_of(checkpoint), sentences(1)[0]
    (found,) = side_by_side(checkpoint, [item, item_of(checkpoint, positions="last")], [prompt], Decoding(8))
    _, ids = by_hand(checkpoint, prompt, [item, item_of(checkpoint, positions="last")], 8)
    with torch.inference_mode(), edit(checkpoint.model, item) as (dose,):
        checkpoint.model(ids[:, :-1])
    assert found.looked_at == (int(dose.looked_at), 8)
    assert found.changed[0] == int(dose.changed)


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_prompt_depends_on_another_and_draws_can_be_repeated(checkpoints, positions):
    checkpoint = checkpoints("gpt2")
    items, prompts = [item_of(checkpoint, positions=positions)], sentences(3)
    for how in (Decoding(6), Decoding(6, beams=3), Decoding(6, seed=3, temperature=1.5)):
        state = torch.get_rng_state()
        together = side_by_side(checkpoint, items, prompts, how)
        assert together == [side_by_side(checkpoint, items, [prompt], how)[0] for prompt in prompts]
        assert torch.equal(torch.get_rng_state(), state)
    one, two = (side_by_side(checkpoint, items, prompts, Decoding(6, seed=seed)) for seed in (1, 2))
    assert one != two


def test_the_checkpoints_own_wishes_are_set_aside(checkpoints):
    checkpoint = checkpoints("gpt2")
    before = side_by_side(checkpoint, [], sentences(2), Decoding(6))
    given = checkpoint.model.generation_config
    checkpoint.model.generation_config = type(given)(do_sample=True, temperature=9.0, num_beams=2, eos_token_id=3)
    try:
        assert side_by_side(checkpoint, [], sentences(2), Decoding(6)) == before
    finally:
        checkpoint.model.generation_config = given


def test_what_cannot_be_written_is_refused(checkpoints):
    with pytest.raises(CheckpointError) as caught:
        side_by_side(checkpoints("bert"), [], ["a"])
    assert str(caught.value) == (
        f"{checkpoints('bert').path}: is a classifier, which writes no text. Name a language model."
    )
    with pytest.raises(UserError) as caught:
        side_by_side(checkpoints("gpt2"), [], ["bank", ""])
    assert str(caught.value) == "an empty prompt gives no tokens. Write at least a word."
    with pytest.raises(UserError) as caught:
        side_by_side(checkpoints("gpt2"), [], ["bank"], Decoding(63))
    assert str(caught.value) == (
        "a prompt of 2 tokens and 63 new ones are more than the 64 that the model has positions for. "
        "Shorten it, or lower --max-new-tokens."
    )
    assert side_by_side(checkpoints("gpt2"), [], ["bank"], Decoding(62)), "the last position may be used"


def test_what_is_asked_of_decoding_reaches_it(checkpoints, monkeypatch):
    checkpoint, asked = checkpoints("gpt2"), []

    def generate(model, tokenizer, ids, mask, **how):
        asked.append(how)
        assert torch.equal(mask, torch.ones_like(ids))
        return torch.cat([ids, torch.full_like(ids[:, :1], tokenizer.eos_token_id), ids[:, :2]], dim=1)

    monkeypatch.setattr("neuronlens.interventions.continuation.generate_plainly", generate)
    prompt = sentences(1)[0]
    (found,) = side_by_side(checkpoint, [], [prompt], Decoding(3, beams=2))
    side_by_side(checkpoint, [], [prompt], Decoding(4, seed=1, temperature=0.5))
    plain = {"max_new_tokens": 3, "num_beams": 2}
    drawn = {"max_new_tokens": 4, "num_beams": 1, "do_sample": True, "temperature": 0.5, "top_k": 0}
    assert asked == [plain, plain, drawn, drawn]
    assert found.unedited == checkpoint.tokenizer.decode(checkpoint.tokenizer(prompt)["input_ids"][:2])


def test_text_is_written_as_the_tokens_say(checkpoints, monkeypatch):
    """A space before a full stop stays where the model has put it, also where a tokenizer would take it away."""
    checkpoint = checkpoints("gpt2")
    monkeypatch.setattr(checkpoint.tokenizer, "clean_up_tokenization_spaces", True)
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    monkeypatch.setattr(checkpoint.tokenizer, forced, True)
    new = torch.tensor([checkpoint.tokenizer(" goal . coach , nurse")["input_ids"]])
    monkeypatch.setattr(
        "neuronlens.interventions.continuation.generate_plainly",
        lambda _, __, ids, *___, **____: torch.cat([ids, new], 1),
    )
    (found,) = side_by_side(checkpoint, [], ["bank"])
    assert found.unedited == " goal . coach , nurse" != checkpoint.tokenizer.decode(new[0])


def test_an_edit_of_nothing_writes_what_the_model_does(checkpoints):
    checkpoint = checkpoints("gemma2")
    idle = between(checkpoint.config, Site(1, "resid_post"), INF, -INF)
    for each in side_by_side(checkpoint, [idle], sentences(2), Decoding(12, beams=2)):
        assert each.edited == each.unedited
        assert each.changed == (0,)
        assert each.looked_at[0] > 0
