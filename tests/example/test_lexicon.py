"""Shared words are shared, and every pattern can be filled."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from neuronlens.example.lexicon import EVERYDAY, NEUTRAL, OWN, PATTERNS, SHARED, TOPICS


@pytest.mark.parametrize("slot", ["thing", "person"])
def test_a_shared_word_belongs_to_two_or_three_topics(slot):
    topics_of = Counter(word for topic in TOPICS for word in SHARED[slot][topic])
    assert set(topics_of.values()) == {2, 3}


@pytest.mark.parametrize("topic", TOPICS)
def test_most_words_of_a_topic_are_shared(topic):
    for slot in SHARED:
        assert len(SHARED[slot][topic]) >= 2 * len(OWN[slot][topic])
    assert len(SHARED["thing"][topic]) >= 40


def test_no_word_is_in_two_tables():
    shared = {word for words in SHARED.values() for topic in TOPICS for word in words[topic]}
    own = [word for words in OWN.values() for topic in TOPICS for word in words[topic]]
    neutral = [*NEUTRAL["thing"], *NEUTRAL["person"]]
    assert max(Counter([*shared, *own, *neutral]).values()) == 1


def test_patterns_use_known_slots_and_are_sentences():
    for pattern in PATTERNS + EVERYDAY:
        assert set(re.findall(r"{(.*?)}", pattern)) <= NEUTRAL.keys()
        assert pattern.endswith(".")


def test_patterns_of_a_topic_have_room_for_its_words():
    assert all(len(re.findall(r"{(?:thing|person)}", pattern)) >= 2 for pattern in PATTERNS)


def test_past_tenses_belong_to_the_verbs():
    assert NEUTRAL["did"] == tuple(verb.removesuffix("e") + "ed" for verb in NEUTRAL["do"])
