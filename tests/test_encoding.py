"""Rows as tokens: a prompt is never cut, a text only at its end, and each label is known by a token of its own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import DatasetParams
from neuronlens.encoding import (
    DEFAULT_PROMPT,
    Encoder,
    encode_questions,
    encoder_for,
    longest_input,
    question_prompt,
    resolve_labels,
)
from neuronlens.errors import ConfigError, DatasetError
from neuronlens.questions import Question
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
        DatasetError,
        match=r"' zzfirst' and ' zzsecond' begin with the same token.*--set 'dataset\.labels=\{zzsecond.*scoring=generate",
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
        bpe.label_tokens("ts")


def test_labels_that_begin_alike_are_told_apart_by_their_whole_text(checkpoints):
    how = DatasetParams(prompt="{text} Topic:")
    labels = resolve_labels(checkpoints("gpt2"), ("zzfirst", "zzsecond"), how, "generate")
    assert labels.ids[0] == labels.ids[1]
    assert labels.longest == max(len(BYTES(text)["input_ids"]) for text in labels.texts) > 2
    assert (labels.room("generate"), labels.room("free")) == (labels.longest, 0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"two": " one "}, r"the label ' one ' is another label's text too.*--set 'dataset\.labels=\{two"),
        ({"one": "  "}, r"the label ' ' is blank.*--set 'dataset\.labels=\{one"),
    ],
)
def test_labels_without_a_text_of_their_own_cannot_be_generated(checkpoints, texts, message):
    with pytest.raises(DatasetError, match=message):
        resolve_labels(checkpoints("gpt2"), ("one", "two"), DatasetParams(labels=texts), "generate")


def test_a_classifier_generates_no_text(checkpoints):
    with pytest.raises(
        ConfigError, match=r"evaluate\.scoring: a classifier generates no text.*--set evaluate\.scoring"
    ):
        resolve_labels(checkpoints("bert"), CONCEPTS, DatasetParams(), "generate")


def test_room_is_left_behind_a_row(checkpoints):
    checkpoint = checkpoints("gpt2")
    for room in (0, 5):
        (ids,) = encoder_for(checkpoint, DatasetParams(max_tokens=1000), room).encode(["the bank " * 200])
        assert longest_input(checkpoint) - room - 1 <= len(ids) <= longest_input(checkpoint) - room
    assert encoder_for(checkpoint, DatasetParams(max_tokens=20), 5).max_tokens == 20


def test_the_prompt_of_a_question():
    question = Question(" Which?\n", ("one", "two", "three"), 1)
    assert question_prompt(question) == "Which?\nA. one\nB. two\nC. three\nAnswer:"
    about = replace(question, subject="high_school_physics")
    assert question_prompt(about) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        + question_prompt(question)
    )


@pytest.fixture(scope="module")
def lettered():
    """A GPT-2 whose tokenizer knows " A" to " D"; encoding needs no weights."""
    known = [f"{word} " * 3 for word in WORDS] + [" A B C D" * 50]
    return SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=64, model_type="gpt2"),
        tokenizer=BYTES.train_new_from_iterator(known, 400),
    )


def test_questions_are_whole_prompts_and_their_letters_one_token_each(lettered):
    questions = [Question("the bank", ("a", "b"), 1), Question("the court", ("a", "b", "c", "d"), 3)]
    asked = encode_questions(lettered, questions)
    assert [lettered.tokenizer.decode(ids) for ids in asked.encoded] == [question_prompt(q) for q in questions]
    assert [lettered.tokenizer.decode([token]) for token in asked.letters] == [" A", " B", " C", " D"]
    assert (asked.choices, asked.answers, asked.left_out) == ((2, 4), (1, 3), 0)


def test_a_question_that_does_not_fit_is_left_out_whole(lettered):
    short, long = Question("the bank", ("a", "b"), 1), Question("the bank " * 40, ("a", "b"), 0)
    asked = encode_questions(lettered, [long, short])
    assert (asked.answers, asked.left_out) == ((1,), 1)
    ends = Question("the bank", ("a", "b" * (64 - len(asked.encoded[0]) + 1)), 1)
    assert [len(ids) for ids in encode_questions(lettered, [ends]).encoded] == [64], "the last position is used"
    with pytest.raises(DatasetError, match=r"evaluate\.questions: no question fits into the model's 64 positions"):
        encode_questions(lettered, [long, long])


def test_letters_that_are_no_tokens_of_their_own_are_refused(lettered, checkpoints):
    with pytest.raises(DatasetError, match=r"the answer ' A' is no single token.*--set evaluate\.questions=null"):
        encode_questions(checkpoints("gpt2"), [Question("the bank", ("a", "b"), 1)])
    with pytest.raises(DatasetError, match="the answer ' E' is no single token"):
        encode_questions(lettered, [Question("the bank", tuple("abcde"), 1)])


def test_letters_that_collide_are_refused(lettered, monkeypatch):
    monkeypatch.setattr(Encoder, "label_tokens", lambda *_: [7])
    with pytest.raises(DatasetError, match="the answer ' A' is no single token of its own"):
        encode_questions(lettered, [Question("the bank", ("a", "b"), 1)])


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
