"""The example's texts: labelled rows to audit, rows to train on, and ordinary documents, all drawn from one seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from neuronlens.example.lexicon import EVERYDAY, NEUTRAL, OWN, PATTERNS, SHARED, TOPICS

AUDITED_ROWS = {"fit": 240, "validation": 60, "test": 100}
"""Audited rows of each topic, by split."""

TRAINING_ROWS = 2200
"""Rows of each topic that only the models see."""

TRAINING_DOCUMENTS = 2000
AUXILIARY_DOCUMENTS = 240

LENGTH = range(10, 41)
"""Words that a text may have."""

# How a slot is filled: mostly with words that two or three topics share, so that the rest of the text must decide, and
# often with a word of another topic, so that some short texts cannot be decided at all.
_SOURCES = {"shared": 0.56, "own": 0.22, "stray": 0.08, "neutral": 0.14}

_SLOT = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Row:
    """A labelled text; ``split`` is ``fit``, ``validation``, ``test``, or ``train`` for a row that models learn from."""

    text: str
    label: str
    split: str


@dataclass(frozen=True)
class Corpus:
    """All texts of the example. No text occurs twice, within a field or across fields."""

    audited: tuple[Row, ...]
    training: tuple[Row, ...]
    training_documents: tuple[str, ...]
    """Unlabelled text that the language model learns from."""
    auxiliary: tuple[str, ...]
    """Unlabelled text of the same kind that no model has seen."""


def generate(seed: int = 0) -> Corpus:
    """Draw the corpus; equal seeds give equal texts in equal order."""
    rng = random.Random(seed)
    seen: set[str] = set()

    def rows(split: str, per_topic: int) -> list[Row]:
        drawn = [
            Row(_unseen(seen, partial(_topical_text, rng, topic)), topic, split)
            for topic in TOPICS
            for _ in range(per_topic)
        ]
        rng.shuffle(drawn)
        return drawn

    def documents(count: int) -> tuple[str, ...]:
        return tuple(_unseen(seen, partial(_document, rng)) for _ in range(count))

    return Corpus(
        audited=tuple(row for split, per_topic in AUDITED_ROWS.items() for row in rows(split, per_topic)),
        training=tuple(rows("train", TRAINING_ROWS)),
        training_documents=documents(TRAINING_DOCUMENTS),
        auxiliary=documents(AUXILIARY_DOCUMENTS),
    )


def _unseen(seen: set[str], draw: Callable[[], str]) -> str:
    """Draw until a text of permitted length comes that was not drawn before."""
    while True:
        text = draw()
        if text not in seen and len(text.split()) in LENGTH:
            seen.add(text)
            return text


def _topical_text(rng: random.Random, topic: str) -> str:
    """Two to four sentences about a topic."""
    return " ".join(_sentence(rng, rng.choice(PATTERNS), topic) for _ in range(rng.randint(2, 4)))


def _document(rng: random.Random) -> str:
    """Two to four sentences, each about any topic or about none."""
    return " ".join(
        _sentence(rng, rng.choice(PATTERNS if rng.random() < 0.6 else EVERYDAY), rng.choice(TOPICS))
        for _ in range(rng.randint(2, 4))
    )


def _sentence(rng: random.Random, pattern: str, topic: str) -> str:
    """Fill a pattern's slots, without using a word twice in the sentence."""
    used: set[str] = set()
    text = _SLOT.sub(lambda slot: _unused(used, partial(_word, rng, slot[1], topic)), pattern)
    return text[0].upper() + text[1:]


def _unused(used: set[str], draw: Callable[[], str]) -> str:
    while (word := draw()) in used:
        pass
    used.add(word)
    return word


def _word(rng: random.Random, slot: str, topic: str) -> str:
    """A word for a slot of a sentence about ``topic``."""
    if slot not in OWN:
        return rng.choice(NEUTRAL[slot])
    (source,) = rng.choices(tuple(_SOURCES), tuple(_SOURCES.values()))
    if source == "neutral":
        return rng.choice(NEUTRAL[slot])
    if source == "own":
        return rng.choice(OWN[slot][topic])
    if source == "shared":
        return rng.choice(SHARED[slot][topic])
    other = rng.choice([stray for stray in TOPICS if stray != topic])
    return rng.choice(OWN[slot][other] + SHARED[slot][other])
