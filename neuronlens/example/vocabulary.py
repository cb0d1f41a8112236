"""The models' tokenizers, trained on the words of the example and saved as anybody's fast tokenizers are."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, GPT2Tokenizer

MAX_TOKENS = 128
"""Positions of both models; the longest text takes about half of them."""

# More than the corpus needs: every word of it becomes a single token.
_SIZE = 4000

_CHARACTERS = string.ascii_lowercase + string.digits


def word_pieces(texts: Iterable[str]) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer with BERT's special tokens, which puts a text between [CLS] and [SEP]."""
    # The trainer breaks ties by token id, and numbers the ## characters in the order of a hash map, another one in each
    # process (huggingface/tokenizers#1794). Naming them up front fixes their numbers, and so the vocabulary.
    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{character}" for character in _CHARACTERS)]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_SIZE, special_tokens=named, initial_alphabet=list(_CHARACTERS), show_progress=False
    )
    pieces.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=pieces.get_vocab(), model_max_length=MAX_TOKENS)


def byte_pairs(texts: Iterable[str]) -> GPT2Tokenizer:
    """A byte-level BPE tokenizer, for which no text is unknown; <|endoftext|> begins, ends and pads."""
    end = "<|endoftext|>"
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=_SIZE, special_tokens=[end], initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(pairs.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]  # annotated as strings there, but pairs are what it takes
    return GPT2Tokenizer(vocab=model["vocab"], merges=merges, pad_token=end, model_max_length=MAX_TOKENS)
