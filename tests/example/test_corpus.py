"""The texts are labelled, never repeated, and ambiguous: combinations of words tell a topic, single words do not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import astuple
from math import log

import pytest

from neuronlens.example.corpus import AUDITED_ROWS, AUXILIARY_DOCUMENTS, LENGTH, generate
from neuronlens.example.lexicon import SHARED, TOPICS


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@pytest.fixture(scope="module")
def everything(corpus) -> list[str]:
    rows = [row.text for row in corpus.audited + corpus.training]
    return [*rows, *corpus.training_documents, *corpus.auxiliary]


def test_every_split_has_every_topic_equally_often(corpus):
    count = Counter((row.label, row.split) for row in corpus.audited)
    assert count == {(topic, split): rows for topic in TOPICS for split, rows in AUDITED_ROWS.items()}
    assert sum(AUDITED_ROWS.values()) >= 400
    assert {row.split for row in corpus.training} == {"train"}
    assert len(corpus.auxiliary) == AUXILIARY_DOCUMENTS >= 200


def test_no_text_occurs_twice(everything):
    assert len(set(everything)) == len(everything)


def test_texts_are_sentences_of_varying_length(everything):
    for text in everything:
        assert re.fullmatch(r"([A-Z][\w ,]+\.)( [A-Z][\w ,]+\.)*", text)
        assert len(text.split()) in LENGTH
    lengths = Counter(len(text.split()) for text in everything)
    assert sum(count > 50 for count in lengths.values()) > 20


def test_no_text_names_a_topic_or_the_prompt(everything):
    given_away = {*TOPICS, "topic"}
    assert not any(given_away & set(words(text)) for text in everything)


def test_equal_seeds_give_equal_texts(corpus):
    assert generate(0) == corpus
    assert not set(map(astuple, generate(1).audited)) & set(map(astuple, corpus.audited))


def test_no_single_word_separates_a_topic(corpus):
    rows, with_label = Counter(), Counter()
    for row in corpus.audited:
        for word in set(words(row.text)):
            rows[word] += 1
            with_label[word, row.label] += 1
    per_topic = sum(AUDITED_ROWS.values())
    for (word, topic), count in with_label.items():
        precision, recall = count / rows[word], count / per_topic
        assert precision * recall < 0.25, (word, topic)  # a word in every row has 1/6


def test_shared_words_occur_under_each_of_their_topics(corpus):
    rows = defaultdict(Counter)
    for row in corpus.audited + corpus.training:
        for word in set(words(row.text)):
            rows[word][row.label] += 1
    for topic in TOPICS:
        for word in SHARED["thing"][topic] + SHARED["person"][topic]:
            assert 0.15 < rows[word][topic] / rows[word].total() < 0.65, (word, topic)


@pytest.mark.parametrize("seed", range(3))
def test_all_words_together_tell_most_topics_and_not_all(seed):
    """Naive Bayes comes close to the best that is possible, since slots are filled independently."""
    corpus = generate(seed)
    count = {topic: Counter() for topic in TOPICS}
    for row in corpus.training:
        count[row.label].update(words(row.text))
    vocabulary = set().union(*count.values())
    evidence = {
        topic: {word: log((seen[word] + 1) / (seen.total() + len(vocabulary))) for word in vocabulary}
        for topic, seen in count.items()
    }

    def likeliest(text: str) -> str:
        known = [word for word in words(text) if word in vocabulary]
        return max(TOPICS, key=lambda topic: sum(evidence[topic][word] for word in known))

    right = [likeliest(row.text) == row.label for row in corpus.audited]
    assert 0.94 < sum(right) / len(right) < 0.985
