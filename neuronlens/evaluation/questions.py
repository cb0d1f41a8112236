"""Multiple-choice questions: how much an edit costs in knowledge that has nothing to do with its concept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.batching import iterate, padding_of, token_budget_batches
from neuronlens.activations.memory import CPU_TOKENS
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import Config
from neuronlens.encoding import Asked, encode_questions
from neuronlens.evaluation.scoring import all_deciding
from neuronlens.evaluation.uncertainty import wilson
from neuronlens.interventions.kinds import AnyEdit
from neuronlens.interventions.latents import on_activations
from neuronlens.progress import track
from neuronlens.questions import read_questions

COLUMNS = ("questions_accuracy", "questions_accuracy_low", "questions_accuracy_high", "base_questions_accuracy")


def score_questions(
    checkpoint: Checkpoint, asked: Asked, interventions: Sequence[AnyEdit], *, batch_tokens: int = CPU_TOKENS
) -> npt.NDArray[np.bool_]:
    """Which questions are answered right, unedited (index 0) and under each intervention (1 to M).

    An answer is the letter among a question's choices whose token is the likeliest behind "Answer:"; of equal ones the first.

    Returns:
        [M + 1, Q].
    """
    model = checkpoint.model
    interventions = on_activations(model, interventions)
    answers, choices = np.array(asked.answers), torch.tensor(asked.choices)
    correct = np.zeros((len(interventions) + 1, len(asked.encoded)), dtype=np.bool_)
    batches = token_budget_batches([len(ids) for ids in asked.encoded], batch_tokens)
    with torch.inference_mode():
        iterated = iterate(asked.encoded, batches, pad_id=padding_of(checkpoint), device=model.device)
        passes = all_deciding(model, interventions, iterated, tokens=asked.letters)
        for batch, index, logits, _ in track(passes, len(batches) * (len(interventions) + 1), "questions"):
            offered = torch.arange(len(asked.letters)) < choices[torch.from_numpy(batch.rows)][:, None]
            said = logits.cpu().masked_fill(~offered, -torch.inf).argmax(dim=1)
            correct[index, batch.rows] = said.numpy() == answers[batch.rows]
    return correct


def question_columns(correct: npt.NDArray[np.bool_] | None, edits: int) -> list[dict[str, float | None]]:
    """[M] the columns `COLUMNS` of results.parquet: accuracy with its 95 % Wilson interval, and without the edit.

    Args:
        correct: what `score_questions` found; None where none were asked, and so are all columns then.
        edits: M.
    """
    if correct is None:
        return [dict.fromkeys(COLUMNS) for _ in range(edits)]
    base, *rates = (float(rate) for rate in correct.mean(axis=1))
    return [
        dict(zip(COLUMNS, (rate, *wilson(int(hits.sum()), len(hits)), base), strict=True))
        for rate, hits in zip(rates, correct[1:], strict=True)
    ]


def question_facts(asked: Asked | None) -> dict[str, int] | None:
    """How many questions were used and how many left out, for the manifest; None where none were asked."""
    return None if asked is None else {"used": len(asked.encoded), "left_out": asked.left_out}


def asked_questions(checkpoint: Checkpoint, config: Config) -> Asked | None:
    """The questions of a configuration; None where none are given or the checkpoint is a classifier."""
    if config.evaluate.questions is None or checkpoint.kind == "classifier":
        return None
    return encode_questions(checkpoint, read_questions(config.evaluate.questions))
