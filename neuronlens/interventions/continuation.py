"""Continuations: what a model writes behind a prompt, as it is and edited, and how much the edits took part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuronlens.activations.readout import generate_plainly
from neuronlens.checkpoint import Checkpoint
from neuronlens.encoding import longest_input
from neuronlens.errors import CheckpointError, UserError
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import AnyEdit


@dataclass(frozen=True)
class Decoding:
    """How text is written: greedily unless told otherwise.

    Attributes:
        max_new_tokens: most tokens of a continuation.
        beams: of a beam search; 1 for none.
        seed: draw tokens instead, from this seed.
        temperature: of the distribution they are drawn from.
    """

    max_new_tokens: int = 40
    beams: int = 1
    seed: int | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class Continuation:
    """One prompt's.

    Attributes:
        prompt: as given.
        unedited, edited: text behind it, without special tokens.
        changed: activations in range over all calls of the model, one number an edit; with beams, of all of them.
        looked_at: activations that were looked at, likewise.
    """

    prompt: str
    unedited: str
    edited: str
    changed: tuple[int, ...]
    looked_at: tuple[int, ...]


def side_by_side(
    checkpoint: Checkpoint, edits: Sequence[AnyEdit], prompts: Sequence[str], how: Decoding | None = None
) -> list[Continuation]:
    """What is written behind each prompt, which neither depends on the other prompts nor on what generation_config.json asks for.

    Args:
        edits: all made together, in order (see `neuronlens.interventions.edit.edit`).

    Raises:
        CheckpointError: the model is a classifier.
        UserError: a prompt is empty, or too long for the model.
    """
    if checkpoint.kind == "classifier":
        raise CheckpointError(
            "is a classifier, which writes no text", where=str(checkpoint.path), cure="Name a language model."
        )
    how = how or Decoding()
    encoded = [_encoded(checkpoint, prompt, how.max_new_tokens) for prompt in prompts]
    return [_continuation(checkpoint, edits, prompt, ids, how) for prompt, ids in zip(prompts, encoded, strict=True)]


def _encoded(checkpoint: Checkpoint, prompt: str, room: int) -> torch.Tensor:
    """[1, T] token ids."""
    ids: list[int] = checkpoint.tokenizer(prompt, verbose=False)["input_ids"]
    most = longest_input(checkpoint)
    if not ids:
        raise UserError("an empty prompt gives no tokens", cure="Write at least a word.")
    if len(ids) + room > most:
        raise UserError(
            f"a prompt of {len(ids):,} tokens and {room:,} new ones are more than the {most:,} that the model has positions for",
            cure="Shorten it, or lower --max-new-tokens.",
        )
    return torch.tensor([ids], device=checkpoint.model.device)


def _continuation(
    checkpoint: Checkpoint, edits: Sequence[AnyEdit], prompt: str, ids: torch.Tensor, how: Decoding
) -> Continuation:
    unedited = _written(checkpoint, ids, how)
    changed, looked_at = [0] * len(edits), [0] * len(edits)
    with edit(checkpoint.model, edits) as doses:

        def count(*_: object) -> None:
            for place, dose in enumerate(doses):
                changed[place] += int(dose.changed.sum())
                looked_at[place] += int(dose.looked_at.sum())

        # behind the model's own hooks, so that a dose is of the call that has just ended
        counting = checkpoint.model.register_forward_hook(count)
        try:
            edited = _written(checkpoint, ids, how)
        finally:
            counting.remove()
    return Continuation(prompt, unedited, edited, tuple(changed), tuple(looked_at))


def _written(checkpoint: Checkpoint, ids: torch.Tensor, how: Decoding) -> str:
    asked: dict[str, Any] = {"max_new_tokens": how.max_new_tokens, "num_beams": how.beams}
    if how.seed is not None:
        asked |= {"do_sample": True, "temperature": how.temperature, "top_k": 0}
    with torch.random.fork_rng(enabled=how.seed is not None):
        if how.seed is not None:
            torch.manual_seed(how.seed)
        found = generate_plainly(checkpoint.model, checkpoint.tokenizer, ids, torch.ones_like(ids), **asked)
    new = found[0, ids.shape[1] :]
    return str(checkpoint.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))
