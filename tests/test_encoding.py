"""Rows as tokens: a prompt is never cut, a text only at its end, and each label is known by a token of its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import DatasetParams
from neuronlens.encoding import DEFAULT_PROMPT, Encoder, encoder_for, longest_input, resolve_labels
from neuronlens.errors import ConfigError, DatasetError
from tests.models import CLASSIFIERS, CONCEPTS, FAMILIES, LANGUAGE_MODELS, WORDS, tokenizer

BYTES, PIECES = tokenizer("gpt2"), tokenizer("bert")
TEXTS = st.text(alphabet=st.sampled_from("ab é中🎉\n."), max_size=60) | st.lists(
    st.sampled_from(WORDS), max_size=30
).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(TEXTS, st.integers(10, 40), st.sampled_from(["{text} Topic:", "Text: {text}\nTopic:", "{text}", "the {text}"]))
def test_a_prompt_is_never_cut_and_a_text_only_at_its_end(text, limit, prompt):
    before, after = prompt.split("{text}")
    encoder = Encoder(BYTES, max(limit, len(BYTES(before + after)["input_ids"])), prompt)
    (ids,) = encoder.encode([text])
    whole = BYTES(before + text + after)["input_ids"]
    assert len(ids) <= encoder.max_tokens
    if len(whole) <= encoder.max_tokens:
        assert ids == whole
        return
    found = BYTES.decode(ids)
    assert found.startswith(before)
    assert found.endswith(after)
    kept = found[len(before) : len(found) - len(after)]
    assert text.startswith(kept)
    assert len(ids) >= encoder.max_tokens - 8, "no more is cut than has to be"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join),
    st.integers(4, 40),
    st.sampled_from(["left", "right"]),
)
def test_a_bare_text_keeps_its_start_and_its_special_tokens(text, limit, side):
    pieces = tokenizer("bert")
    pieces.truncation_side = side
    (ids,) = Encoder(pieces, limit).encode([text])
    whole = PIECES(text)["input_ids"]
    assert ids == (whole if len(whole) <= limit else [*whole[: limit - 1], whole[-1]])


def test_rows_are_encoded_one_by_one():
    encoder = Encoder(BYTES, 16, "{text} Topic:")
    texts = ["the bank", " ".join(WORDS), "a"]
    assert encoder.encode(texts) == [encoder.encode([text])[0] for text in texts]


def test_a_prompt_longer_than_the_limit_is_refused():
    with pytest.raises(
        ConfigError, match=r"dataset\.prompt: the prompt alone has \d+ tokens, more than dataset.max_tokens = 4"
    ):
        Encoder(BYTES, 4, "a long prompt around {text} and behind it").encode(["the bank"])


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_see_the_bare_text_and_language_models_the_prompt(checkpoints, family):
    checkpoint = checkpoints(family)
    assert encoder_for(checkpoint, DatasetParams()).prompt == (None if family in CLASSIFIERS else DEFAULT_PROMPT)
    assert encoder_for(checkpoint, DatasetParams(prompt="{text}!")).prompt == (
        None if family in CLASSIFIERS else "{text}!"
    )
    assert encoder_for(checkpoint, DatasetParams(max_tokens=9)).max_tokens == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_is_longer_than_the_models_positions(checkpoints, family):
    """RoBERTa counts from the padding token's id, so it has fewer than its config says."""
    import torch

    checkpoint = checkpoints(family)
    longest = longest_input(checkpoint)
    assert longest == (65 if family == "roberta" else 64)
    (ids,) = encoder_for(checkpoint, DatasetParams(max_tokens=1000)).encode(["the bank " * 200])
    assert len(ids) <= longest
    assert len(ids) >= longest - 1
    with torch.inference_mode():
        assert torch.isfinite(checkpoint.model(torch.tensor([ids])).logits).all()


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_label_is_the_token_that_follows_the_prompt(checkpoints, family):
    checkpoint = checkpoints(family)
    labels = resolve_labels(checkpoint, CONCEPTS, DatasetParams(prompt="{text} Topic:"))
    assert labels.texts == tuple(f" {name}" for name in CONCEPTS)
    for name, token in zip(labels.concepts, labels.ids, strict=True):
        prompt = checkpoint.tokenizer("the bank Topic:")["input_ids"]
        assert checkpoint.tokenizer(f"the bank Topic: {name}")["input_ids"][: len(prompt) + 1] == [*prompt, token]


def test_labels_that_begin_alike_are_refused_with_the_way_out(checkpoints):
    checkpoint = checkpoints("gpt2")
    with pytest.raises(
        DatasetError, match=r"' zzfirst' and ' zzsecond' begin with the same token.*--set 'dataset\.labels=\{zzsecond"
    ):
        resolve_labels(checkpoint, ("zzfirst", "zzsecond"), DatasetParams(prompt="{text} Topic:"))
    labels = resolve_labels(
        checkpoint, ("zzfirst", "zzsecond"), DatasetParams(prompt="{text} Topic:", labels={"zzsecond": " yes"})
    )
    assert labels.texts == (" zzfirst", " yes")


def test_a_label_that_melts_into_the_prompt_is_refused():
    bpe = Encoder(BYTES, 64, "{text} spor")
    with pytest.raises(
        DatasetError, match=r"the label 'ts' merges with the end of the prompt ' spor'.*begin with a space"
    ):
        bpe.label_token("ts")


def test_classes_by_name_by_other_spelling_and_by_number(checkpoints):
    checkpoint = checkpoints("bert")
    assert resolve_labels(checkpoint, ("finance", "sports"), DatasetParams()).ids == (0, 3)
    assert resolve_labels(checkpoint, ("Finance", "SPORTS"), DatasetParams()).ids == (0, 3)
    assert resolve_labels(checkpoint, ("0", "3"), DatasetParams()).texts == ("finance", "sports")
    mapped = resolve_labels(checkpoint, ("money", "sports"), DatasetParams(labels={"money": "finance"}))
    assert mapped.ids == (0, 3)


@pytest.mark.parametrize(
    ("concepts", "labels", "error", "message"),
    [
        (
            ("money", "sports"),
            None,
            DatasetError,
            r"config\.json: concept 'money' is no class.*finance, health, science, sports.*Map it",
        ),
        (("7", "sports"), None, DatasetError, "concept '7' is no class"),
        (("Sports", "sports"), None, DatasetError, "'Sports' and 'sports' are the same class 'sports'"),
        (("sports", "law"), {"law": "court"}, DatasetError, "concept 'law' is no class"),
        (
            ("finance", "sports"),
            {"sprots": "sports"},
            ConfigError,
            r"dataset\.labels: concept 'sprots' is not in the data",
        ),
    ],
)
def test_concepts_the_classifier_does_not_know(checkpoints, concepts, labels, error, message):
    with pytest.raises(error, match=message):
        resolve_labels(checkpoints("bert"), concepts, DatasetParams(labels=labels))
