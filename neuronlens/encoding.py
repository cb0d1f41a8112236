"""Rows as tokens: the prompt around a text, cutting to length, the tokens that stand for a label, and questions with their letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import TYPE_CHECKING

from neuronlens.checkpoint import Checkpoint
from neuronlens.config import DatasetParams
from neuronlens.errors import ConfigError, DatasetError
from neuronlens.questions import Question
from neuronlens.sites import family_of
from neuronlens.values import Scoring

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
        unseen: token that the model does not look at where it ends a row; a row is cut before it.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    prompt: str | None = None
    unseen: int | None = None

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
            return bare if self.unseen is None else [_before_the_end(ids, self.unseen) for ids in bare]
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

    def label_tokens(self, label: str) -> list[int]:
        """Ids of the tokens that the label adds behind the prompt.

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
        return joined[len(alone) :]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _before_the_end(ids: list[int], token: int) -> list[int]:
    """Token ids without those at their end that are a certain one; a row of nothing else keeps one."""
    length = len(ids)
    while length > 1 and ids[length - 1] == token:
        length -= 1
    return ids[:length]


def encoder_for(checkpoint: Checkpoint, params: DatasetParams, room: int = 0) -> Encoder:
    """How the labelled rows of an audit are tokenised: language models get the prompt, classifiers the bare text.

    Args:
        room: positions of the model that a row leaves free, for what is generated behind it.
    """
    longest = min(params.max_tokens, longest_input(checkpoint) - room)
    if checkpoint.kind == "language_model":
        return Encoder(checkpoint.tokenizer, longest, params.prompt or DEFAULT_PROMPT)
    # a causal classifier reads the last token that is no padding token, and nothing behind that has come into it
    return Encoder(
        checkpoint.tokenizer, longest, unseen=checkpoint.config.pad_token_id if checkpoint.family.decoder else None
    )


def longest_input(checkpoint: Checkpoint) -> int:
    """Most tokens the model has positions for."""
    config = checkpoint.config
    positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
    return positions - (config.pad_token_id + 1) if family_of(config).padded_positions else positions


@dataclass(frozen=True)
class Labels:
    """What the model says for each concept.

    Attributes:
        concepts: [C] sorted.
        ids: [C] class index (classifiers) or id of the label's first token (language models).
        texts: [C] class name, or text of the label.
        longest: tokens of the longest label (language models).
    """

    concepts: tuple[str, ...]
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    longest: int = 1

    def room(self, scoring: Scoring) -> int:
        """Positions that a scoring needs behind a row: `generate` looks one token past the longest label, and that one is not read."""
        return self.longest if scoring == "generate" else 0


def resolve_labels(
    checkpoint: Checkpoint, concepts: Sequence[str], params: DatasetParams, scoring: Scoring = "constrained"
) -> Labels:
    """Match the concepts of a dataset with the model's classes or tokens.

    Args:
        scoring: with `generate` labels are told apart by their whole text, else by their first token.

    Raises:
        DatasetError: a concept has no class, or two labels cannot be told apart.
        ConfigError: `dataset.labels` names a concept the data does not have, or a classifier is asked to generate.
    """
    given = params.labels or {}
    for name in given:
        if name not in concepts:
            raise ConfigError(
                f"concept {name!r} is not in the data", where="dataset.labels", cure=f"It has: {', '.join(concepts)}."
            )
    if checkpoint.kind == "classifier":
        if scoring == "generate":
            raise ConfigError(
                "a classifier generates no text",
                where="evaluate.scoring",
                cure="Use a language model, or --set evaluate.scoring=constrained.",
            )
        return _classes(checkpoint, concepts, given)
    encoder = encoder_for(checkpoint, params)
    texts = tuple(given.get(name, f" {name}") for name in concepts)
    tokens = [encoder.label_tokens(text) for text in texts]
    ids = tuple(of_label[0] for of_label in tokens)
    if scoring == "generate":
        _refuse_equal_texts(concepts, texts)
    else:
        _refuse_equal_starts(checkpoint, concepts, texts, ids)
    return Labels(tuple(concepts), ids, texts, max(map(len, tokens)))


def _refuse_equal_texts(concepts: Sequence[str], texts: Sequence[str]) -> None:
    stripped = [text.strip() for text in texts]
    for place, text in enumerate(stripped):
        if not text or text in stripped[:place]:
            raise DatasetError(
                f"the label {texts[place]!r} is another label's text too"
                if text
                else f"the label {texts[place]!r} is blank",
                where="dataset.labels",
                cure=f"Give it another text, such as --set 'dataset.labels={{{concepts[place]}: \" other\"}}'.",
            )


def _refuse_equal_starts(
    checkpoint: Checkpoint, concepts: Sequence[str], texts: Sequence[str], ids: Sequence[int]
) -> None:
    ordered = sorted(range(len(ids)), key=lambda i: ids[i])
    for one, two in pairwise(ordered):
        if ids[one] == ids[two]:
            token = checkpoint.tokenizer.decode([ids[one]])
            raise DatasetError(
                f"the labels {texts[one]!r} and {texts[two]!r} begin with the same token {token!r}, so neither can be told from it",
                where="dataset.labels",
                cure=f"Give one another text, such as --set 'dataset.labels={{{concepts[two]}: \" other\"}}', "
                "or compare whole labels: --set evaluate.scoring=generate.",
            )


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


@dataclass(frozen=True)
class Asked:
    """Multiple-choice questions as tokens.

    Attributes:
        encoded: [Q] token ids of each prompt, up to and with "Answer:".
        choices: [Q] how many answers a question offers.
        answers: [Q] index of the right one.
        letters: token ids of " A", " B" and so on, as many as the question with the most choices needs.
        left_out: questions longer than the model has positions for.
    """

    encoded: tuple[list[int], ...]
    choices: tuple[int, ...]
    answers: tuple[int, ...]
    letters: tuple[int, ...]
    left_out: int


def encode_questions(checkpoint: Checkpoint, questions: Sequence[Question]) -> Asked:
    """Questions as a language model is asked them. They are never cut: without its choices or its question a row measures nothing.

    Raises:
        DatasetError: no question fits, or a letter is not one token of its own.
    """
    letters = ascii_uppercase[: max(len(question.choices) for question in questions)]
    encoder = Encoder(checkpoint.tokenizer, longest_input(checkpoint), "{text}\nAnswer:")
    tokens = [encoder.label_tokens(f" {letter}") for letter in letters]
    for letter, ids in zip(letters, tokens, strict=True):
        if len(ids) != 1 or tokens.count(ids) > 1:
            raise DatasetError(
                f"the answer {f' {letter}'!r} is no single token of its own in this tokenizer",
                where="evaluate.questions",
                cure="Multiple choice is read off the letters; --set evaluate.questions=null for this checkpoint.",
            )
    prompts = [question_prompt(question) for question in questions]
    encoded: list[list[int]] = checkpoint.tokenizer(prompts, verbose=False)["input_ids"]
    fits = [place for place, ids in enumerate(encoded) if len(ids) <= encoder.max_tokens]
    if not fits:
        raise DatasetError(
            f"no question fits into the model's {encoder.max_tokens} positions",
            where="evaluate.questions",
            cure="Name shorter questions, or --set evaluate.questions=null.",
        )
    return Asked(
        tuple(encoded[place] for place in fits),
        tuple(len(questions[place].choices) for place in fits),
        tuple(questions[place].answer for place in fits),
        tuple(ids[0] for ids in tokens),
        len(questions) - len(fits),
    )


def question_prompt(question: Question) -> str:
    """MMLU's zero-shot prompt: the subject where there is one, the question, a choice a line behind its letter, and "Answer:"."""
    subject = question.subject and question.subject.replace("_", " ").strip()
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n" if subject else ""
    choices = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, question.choices, strict=False)]
    return header + "\n".join([question.text.strip(), *choices, "Answer:"])
