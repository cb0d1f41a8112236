"""What a model answers: the logits that decide a row, the text it goes on with, and from them a concept and a confidence."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Batch, Ints, collate, pad_id_of
from neuronlens.activations.capture import stand_in
from neuronlens.encoding import Labels
from neuronlens.sites import family_of
from neuronlens.values import Scoring

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answers:
    """Of the rows of a batch, on the CPU.

    Attributes:
        predicted: [B] index of the concept the model names, -1 where it names none.
        confidence: [B, C] float32 probability of each concept (classifiers: softmax over the classes; language models: full-vocabulary
            softmax, at the first token of its label; with `labels`, softmax over these tokens).
    """

    predicted: torch.Tensor
    confidence: torch.Tensor

    @property
    def broken(self) -> list[int]:
        """Places of the rows that have no answer, since a logit is NaN or infinite. (-inf, a token ruled out, is no obstacle.)"""
        places: list[int] = (~self.confidence.isfinite()).any(dim=1).nonzero().flatten().tolist()
        return places


def deciding_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[B, V] float32: the class logits, or the next-token logits behind the last real token of each row.

    The language-model head runs on one position of each row. Stock models cut by column, the same ones for all rows, so what is left to cut
    is cut at the head's entrance; over a batch of rows of many lengths that is most of the head's work.
    """
    inputs = inputs_of(model, batch)
    if not has_vocabulary(model):
        classes: torch.Tensor = model(**inputs).logits
        return classes.float()
    kept, place = deciding_columns(model, batch).unique(return_inverse=True)
    if not _can_cut_logits(model):
        place = deciding_columns(model, batch)

    def own_column(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, place.to(hidden.device)][:, None], *args[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(own_column)
    try:
        logits: torch.Tensor = model(**inputs, **logits_of_columns(model, kept)).logits
    finally:
        handle.remove()
    return logits[:, 0].float()


def inputs_of(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Of the model's forward call over a batch."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if family_of(model.config).decoder:
        inputs["use_cache"] = False
        if _takes(model, "position_ids"):  # others count real tokens themselves, or do without positions
            inputs["position_ids"] = batch.position_ids
    return inputs


def _takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the forward call of a model's class has an argument of that name."""
    return _has_argument(type(model).forward, argument)


@lru_cache
def _has_argument(forward: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(forward).parameters


def _can_cut_logits(model: PreTrainedModel) -> bool:
    return _takes(model, "logits_to_keep")


def logits_of_columns(model: PreTrainedModel, columns: int | torch.Tensor) -> dict[str, Any]:
    """Argument of a language model's forward call for the logits of some columns alone, where it has one.

    Args:
        columns: their numbers, or how many of the last.
    """
    return {"logits_to_keep": columns} if _can_cut_logits(model) else {}


def has_vocabulary(model: PreTrainedModel) -> bool:
    """Whether a model is a language model; else it is a classifier. Either may be causal."""
    return model.get_output_embeddings() is not None


def decides_by_one_token(model: PreTrainedModel) -> bool:
    """Whether the head makes a row's logits from what the last block gives of one token, by itself."""
    return has_vocabulary(model) or family_of(model.config).one_token(model.config)


@contextlib.contextmanager
def only_tokens(model: PreTrainedModel, tokens: Sequence[int] | None) -> Iterator[None]:
    """Within the block, a language model gives logits [..., len(tokens)] of some tokens of its vocabulary and computes no others.

    Args:
        tokens: ids; None changes nothing.
    """
    if tokens is None:
        yield
        return
    head: Any = model.get_output_embeddings()
    index = torch.tensor(list(tokens), device=head.weight.device)
    weight = head.weight[index]
    bias = None if head.bias is None else head.bias[index]
    # blocks of one model may lie on several devices
    with stand_in(head, lambda hidden: torch.nn.functional.linear(hidden.to(weight.device), weight, bias)):
        yield


def deciding_columns(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[B] column of the token whose last hidden state decides a row: a decoder's last real one, an encoder's first of all.

    The head of a causal classifier does not look at the mask. It takes the last token that is no padding token, wherever that stands.
    """
    if not family_of(model.config).decoder:
        return torch.zeros(len(batch.input_ids), dtype=torch.long, device=batch.input_ids.device)
    real = batch.attention_mask
    if not has_vocabulary(model):
        real = (batch.input_ids != model.config.pad_token_id).int()
    return batch.input_ids.shape[1] - 1 - real.flip(1).argmax(dim=1)


def continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Sequence[int]], rows: Ints, steps: int
) -> list[str]:
    """[B] text that greedy decoding puts behind each row: up to `steps` tokens, up to the end-of-text token, which is not part of it.

    Plain argmax of the model's logits: what the checkpoint's generation_config.json asks for (sampling, beams, penalties) is set aside.

    Args:
        encoded: token ids of all rows.
        rows: [B] which of them.
    """
    batch = collate(encoded, rows, pad_id=pad_id_of(tokenizer), device=model.device, side="left")
    found = generate_plainly(model, tokenizer, batch.input_ids, batch.attention_mask, max_new_tokens=steps)
    stops = _stops(model, tokenizer)
    texts = []
    for ids in found[:, batch.input_ids.shape[1] :].tolist():
        length = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        texts.append(str(tokenizer.decode(ids[:length], clean_up_tokenization_spaces=False)))
    return texts


def generate_plainly(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **how: Any,
) -> torch.Tensor:
    """Token ids [B, T + steps] of prompts, padded on the left, and what the model writes behind them.

    Args:
        how: of transformers' GenerationConfig; what it leaves open is transformers' own default, whatever the checkpoint's says.
    """
    from transformers import GenerationConfig

    asked: Any = model
    given = asked.generation_config
    plain = {"do_sample": False, "eos_token_id": _stops(model, tokenizer) or None, "pad_token_id": pad_id_of(tokenizer)}
    # generate fills whatever is left open in a config that it is passed from the model's own, so the model's own has to make way
    asked.generation_config = GenerationConfig(**plain | how)
    try:
        found: torch.Tensor = asked.generate(input_ids=input_ids, attention_mask=attention_mask)
    finally:
        asked.generation_config = given
    return found


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a text."""
    asked: Any = model
    own = asked.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None})


def needed_tokens(labels: Labels, scoring: Scoring, *, classifier: bool) -> tuple[int, ...] | None:
    """The only tokens whose logits a scoring looks at; None where it looks at all."""
    return labels.ids if scoring == "labels" and not classifier else None


def named_label(text: str, labels: Labels) -> int:
    """Index of the concept whose label a continuation names, -1 for none.

    Both stripped of white space, the continuation must begin with the label, letter by letter and case by case, and the label must end
    there: no letter, digit, underscore or half-decoded character may follow. So "art" is named by "art", "art." and "art history", not by
    "artful" or "Art". Where several labels are named, as "art" and "art history" are by the last, the longest is meant.
    """
    said = text.strip()
    wanted = [label.strip() for label in labels.texts]
    named = [i for i, label in enumerate(wanted) if re.match(re.escape(label) + r"(?![\w\ufffd])", said)]
    return max(named, key=lambda i: len(wanted[i]), default=-1)


def read_answers(
    logits: torch.Tensor, labels: Labels, scoring: Scoring, *, classifier: bool, texts: Sequence[str] = ()
) -> Answers:
    """Concepts and confidences from deciding logits [B, V].

    Args:
        logits: with `labels` of a language model, [B, C]: those of the labels' first tokens alone.
        scoring: `constrained` takes the best of the labels, `labels` too, with probabilities among the labels alone, `free` the best of the
            vocabulary, which may be no label, `generate` the label that the continuation names. Classifiers always take the best of all
            their classes.
        texts: [B] continuations, for `generate`.
    """
    if scoring == "labels" and not classifier:
        return Answers(logits.argmax(dim=-1).cpu(), logits.softmax(dim=-1).cpu())
    ids = torch.tensor(labels.ids, device=logits.device)
    confidence = logits.softmax(dim=-1)[:, ids]
    if scoring == "generate":
        return Answers(torch.tensor([named_label(text, labels) for text in texts]), confidence.cpu())
    if scoring == "constrained" and not classifier:
        return Answers(logits[:, ids].argmax(dim=-1).cpu(), confidence.cpu())
    hit = logits.argmax(dim=-1)[:, None] == ids
    predicted = torch.where(hit.any(dim=1), hit.int().argmax(dim=1), -1)
    return Answers(predicted.cpu(), confidence.cpu())
