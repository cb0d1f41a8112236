"""What tests of the evaluation share."""

from __future__ import annotations

import pytest

from neuronlens.checkpoint import load_checkpoint
from tests.conftest import sentences
from tests.models import WORDS, save_checkpoint, tokenizer


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory):
    file = tmp_path_factory.mktemp("auxiliary") / "ordinary.txt"
    file.write_text("\n".join(sentences(2, seed=9)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def lettered(tmp_path_factory):
    """`lettered(family)` is a random checkpoint whose tokenizer knows " A" to " D" as tokens."""
    made = {}

    def make(family):
        if family not in made:
            folder = save_checkpoint(tmp_path_factory.mktemp("lettered") / family, family)
            known = [f"{word} " * 3 for word in WORDS] + [" A B C D" * 50]
            tokenizer(family).train_new_from_iterator(known, 400).save_pretrained(folder)
            made[family] = load_checkpoint(folder)
        return made[family]

    return make
