"""Texts that are token ids: a token is the word `t` and its id, so a benchmark says which tokens a text has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import lognorm
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FIRST = 2
"""The smallest id that is free for texts; the largest is the vocabulary's last but one."""


def sentence(ids: Sequence[int]) -> str:
    """The text of these tokens."""
    return " ".join(f"t{token}" for token in ids)


def word_tokenizer(vocabulary: int, longest: int) -> PreTrainedTokenizerFast:
    """The tokenizer of such texts.

    Args:
        vocabulary: number of tokens.
        longest: number of tokens that the model has positions for.
    """
    # NeuroX puts the letter a before each word to see how it is cut
    words = ["a", "<unk>", *(f"t{token}" for token in range(FIRST, vocabulary))]
    backend = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # other tools ask for these tokens, and no text has them
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token"), words[-1])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", model_max_length=longest, **named)


def lengths(count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """[count] tokens of rows as news items have, lognormal with 66 in the mean, from 8 to 400; in random order.

    The middles of as many equal parts of the distribution, so that a few are as long in the mean as many.
    """
    parts = lognorm.ppf((np.arange(count) + 0.5) / count, s=0.5, scale=np.exp(4.075))
    return generator.permutation(np.clip(parts.astype(np.int64), 8, 400))
