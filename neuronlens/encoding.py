"""Rows as tokens: the prompt around a text, cutting to length, and the token that stands for a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from neuronlens.checkpoint import Checkpoint
from neuronlens.config import DatasetParams
from neuronlens.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_PROMPT = "{text}\nTopic:"


@dataclass(frozen=True)
class Encoder:
    """Turns texts into token ids.

    Attributes:
        tokenizer: the checkpoint's own.
        max_tokens: length that a row is cut to, prompt and special tokens included.
        prompt: template with `{text}`, or None for the bare text.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    prompt: str | None = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """[N] lists of token ids. An over-long text is cut at its end; the template around it stays whole.

        Raises:
            ConfigError: the template alone is longer than `max_tokens`.
        """
        if self.prompt is None:
            given, self.tokenizer.truncation_side = self.tokenizer.truncation_side, "right"
            try:
                found = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
            finally:
                self.tokenizer.truncation_side = given
            bare: list[list[int]] = found["input_ids"]
            return bare
        before, after = self.prompt.split("{text}")
        encoded: list[list[int]] = self.tokenizer([before + text + after for text in texts], verbose=False)["input_ids"]
        for row, ids in enumerate(encoded):
            if len(ids) > self.max_tokens:
                encoded[row] = self._cut(texts[row], before, after)
        return encoded

    def _cut(self, text: str, before: str, after: str) -> list[int]:
        """The longest start of `text` that fits into the template. Searched by characters, since tokens may merge at the seams."""

        def ids_of(length: int) -> list[int]:
            ids: list[int] = self.tokenizer(before + text[:length].rstrip() + after, verbose=False)["input_ids"]
            return ids

        if len(ids_of(0)) > self.max_tokens:
            raise ConfigError(
                f"the prompt alone has {len(ids_of(0))} tokens, more than dataset.max_tokens = {self.max_tokens}",
                where="dataset.prompt",
                cure="Raise dataset.max_tokens or shorten the prompt.",
            )
        low, high = 0, len(text)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(ids_of(middle)) <= self.max_tokens else (low, middle)
        return ids_of(low)

    def label_token(self, label: str) -> int:
        """Id of the first token that the label adds behind the prompt.

        Found by tokenising prompt and label together, as the model would have seen them in training.

        Raises:
            DatasetError: the label adds no token of its own, since its start merges with the prompt's end.
        """
        context = (self.prompt or "{text}").replace("{text}", "")
        alone = self._plain(context)
        joined = self._plain(context + label)
        if joined[: len(alone)] != alone or len(joined) == len(alone):
            raise DatasetError(
                f"the label {label!r} merges with the end of the prompt {context!r}",
                where="dataset.labels",
                cure="Let the label begin with a space and the prompt end without one.",
            )
        return joined[len(alone)]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def encoder_for(checkpoint: Checkpoint, params: DatasetParams) -> Encoder:
    """How the labelled rows of an audit are tokenised: language models get the prompt, classifiers the bare text."""
    prompt = None if checkpoint.kind == "classifier" else (params.prompt or DEFAULT_PROMPT)
    return Encoder(checkpoint.tokenizer, min(params.max_tokens, longest_input(checkpoint)), prompt)


def longest_input(checkpoint: Checkpoint) -> int:
    """Most tokens the model has positions for."""
    config = checkpoint.config
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
    # RoBERTa numbers its positions from pad_token_id + 1
    return positions - (config.pad_token_id + 1) if config.model_type == "roberta" else positions


@dataclass(frozen=True)
class Labels:
    """What the model says for each concept.

    Attributes:
        concepts: [C] sorted.
        ids: [C] class index (classifiers) or id of the label's first token (language models).
        texts: [C] class name, or text of the label.
    """

    concepts: tuple[str, ...]
    ids: tuple[int, ...]
    texts: tuple[str, ...]


def resolve_labels(checkpoint: Checkpoint, concepts: Sequence[str], params: DatasetParams) -> Labels:
    """Match the concepts of a dataset with the model's classes or tokens.

    Raises:
        DatasetError: a concept has no class, or two labels share their first token.
        ConfigError: `dataset.labels` names a concept the data does not have.
    """
    given = params.labels or {}
    for name in given:
        if name not in concepts:
            raise ConfigError(
                f"concept {name!r} is not in the data", where="dataset.labels", cure=f"It has: {', '.join(concepts)}."
            )
    if checkpoint.kind == "classifier":
        return _classes(checkpoint, concepts, given)
    encoder = encoder_for(checkpoint, params)
    texts = tuple(given.get(name, f" {name}") for name in concepts)
    ids = tuple(encoder.label_token(text) for text in texts)
    ordered = sorted(range(len(ids)), key=lambda i: ids[i])
    for one, two in pairwise(ordered):
        if ids[one] == ids[two]:
            token = checkpoint.tokenizer.decode([ids[one]])
            raise DatasetError(
                f"the labels {texts[one]!r} and {texts[two]!r} begin with the same token {token!r}, so neither can be told from it",
                where="dataset.labels",
                cure=f"Give one another text, such as --set 'dataset.labels={{{concepts[two]}: \" other\"}}'.",
            )
    return Labels(tuple(concepts), ids, texts)


def _classes(checkpoint: Checkpoint, concepts: Sequence[str], given: dict[str, str]) -> Labels:
    names = {int(index): str(name) for index, name in (checkpoint.config.id2label or {}).items()}
    index_of = {name: index for index, name in names.items()}
    folded = {name.casefold(): index for name, index in index_of.items()}
    ids = []
    for concept in concepts:
        wanted = given.get(concept, concept)
        index = index_of.get(wanted, folded.get(wanted.casefold()))
        if index is None and concept not in given and wanted.isdigit() and int(wanted) in names:
            index = int(wanted)
        if index is None:
            raise DatasetError(
                f"concept {concept!r} is no class of the model, whose classes are: {', '.join(names.values())}",
                where=str(checkpoint.path / "config.json"),
                cure=f"Map it: --set 'dataset.labels={{{concept}: {next(iter(names.values()))}}}'.",
            )
        ids.append(index)
    if len(set(ids)) < len(ids):
        twice = next(index for index in ids if ids.count(index) > 1)
        both = [concept for concept, index in zip(concepts, ids, strict=True) if index == twice]
        raise DatasetError(
            f"concepts {both[0]!r} and {both[1]!r} are the same class {names[twice]!r} of the model",
            where="dataset.labels",
            cure="Give them one name in the data.",
        )
    return Labels(tuple(concepts), tuple(ids), tuple(names[index] for index in ids))
