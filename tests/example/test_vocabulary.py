"""The tokenizers load as anybody's do, with the special tokens of their architectures."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from neuronlens.example import PROMPT
from neuronlens.example.lexicon import TOPICS
from neuronlens.example.vocabulary import MAX_TOKENS, byte_pairs, word_pieces


@pytest.fixture(scope="module")
def texts(corpus):
    return [row.text for row in corpus.training]


@pytest.fixture(scope="module")
def bert(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    word_pieces(texts).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def gpt2(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    byte_pairs([f"{PROMPT.format(text=row.text)} {row.label}" for row in corpus.training]).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_bert_puts_a_text_between_its_special_tokens(bert):
    assert bert.is_fast
    assert bert.convert_ids_to_tokens(bert("The pitch.")["input_ids"]) == ["[CLS]", "the", "pitch", ".", "[SEP]"]


def test_bert_pads_and_truncates(bert):
    batch = bert(["The pitch.", "The bank was on the pitch. " * 50], padding=True, truncation=True)
    short, long = batch["input_ids"]
    assert len(short) == len(long) == MAX_TOKENS
    assert long[-1] == bert.sep_token_id
    assert short[5:] == [bert.pad_token_id] * (MAX_TOKENS - 5)
    assert batch["attention_mask"][0] == [1] * 5 + [0] * (MAX_TOKENS - 5)


def test_bert_knows_every_word_of_unseen_texts(bert, corpus):
    for text in (row.text for row in corpus.audited):
        tokens = bert.tokenize(text)
        assert bert.unk_token not in tokens
        assert not any(token.startswith("##") for token in tokens)


def test_bert_spells_a_word_it_has_not_seen(bert):
    tokens = bert.tokenize("zyzzyva2")
    assert "".join(token.removeprefix("##") for token in tokens) == "zyzzyva2"


def test_gpt2_has_one_special_token_and_adds_none(gpt2):
    assert gpt2.is_fast
    assert gpt2.bos_token == gpt2.eos_token == gpt2.pad_token == "<|endoftext|>"
    assert gpt2.tokenize("The pitch.") == ["The", "Ġpitch", "."]
    assert len(gpt2("The pitch.")["input_ids"]) == 3
    assert gpt2("The pitch.<|endoftext|>")["input_ids"][-1] == gpt2.eos_token_id


@pytest.mark.parametrize("text", ["The bank.", "naïve café 北京 🙂\n\ttabs", " two  spaces "])
def test_gpt2_gives_any_text_back(gpt2, text):
    assert gpt2.decode(gpt2(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_every_label_is_one_token_of_its_own(gpt2):
    prompt = gpt2(PROMPT.format(text="The bank."))["input_ids"]
    answers = [gpt2(PROMPT.format(text="The bank.") + f" {topic}")["input_ids"] for topic in TOPICS]
    assert all(answer[:-1] == prompt for answer in answers)
    assert len({answer[-1] for answer in answers}) == len(TOPICS)


def test_gpt2_texts_fit_the_model(gpt2, texts):
    longest = max(len(gpt2(f"{PROMPT.format(text=text)} sports")["input_ids"]) for text in texts)
    assert longest < MAX_TOKENS


def test_equal_texts_give_equal_tokenizers(texts):
    for train in (word_pieces, byte_pairs):
        one, two = (train(texts).backend_tokenizer.to_str() for _ in range(2))
        assert one == two
