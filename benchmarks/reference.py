"""The algorithm of the paper's reference program, written anew from the definitions, as a peer for a whole audit.

    model = GPT2LMHeadModel(GPT2Config()).eval()
    workload = random_workload(concepts=4, fit=20, test=5, documents=10, tokens=128)
    results = audit(model, workload, Settings(layer=6))

What it does for each concept, one after the other and with nothing kept from one to the next:

* a whole pass over the concept's fit rows gives its activations, mean and standard deviation, and the neurons with the largest mean |a|;
* three whole passes over all test rows, unedited, with the ranges set to zero and with the whole neurons set to zero;
* the stock loss of every document, one at a time, in the same three states.

Every pass takes padded rows in the order they come in and computes logits at all positions, as a stock `model(input_ids, attention_mask)`
does. Edits act on all positions of a block's output, bounds included.

Four things are set right, or the numbers would be others than the method's: the last real token is read and not the padding behind it; a
constant neuron is masked by `full`; bounds are float32 whatever the model's dtype; and documents are weighted by the tokens that were
predicted. A pass over the documents whose result the program throws away is left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import GPT2LMHeadModel

from benchmarks.words import FIRST, lengths, sentence
from neuronlens.config import DatasetParams
from neuronlens.dataset import Dataset

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bounds = tuple[torch.Tensor, torch.Tensor]
"""[D] float32 each, least and largest value of a neuron that is set to zero; [inf, -inf] where none is."""


@dataclass(frozen=True)
class Workload:
    """Labelled rows and ordinary documents, as tokens.

    Attributes:
        concepts: [C] names, sorted.
        labels: [C] the token that stands for each concept.
        rows: [N] token ids of each row, which the label is to follow.
        truth: [N] index of each row's concept.
        split: [N] `fit` or `test`.
        documents: token ids of each ordinary text, two or more.
    """

    concepts: tuple[str, ...]
    labels: tuple[int, ...]
    rows: Sequence[Sequence[int]]
    truth: Sequence[int]
    split: Sequence[str]
    documents: Sequence[Sequence[int]]

    def members(self, split: str, concept: int | None = None) -> list[int]:
        """Indices of the rows of a split, of one concept or of all."""
        return [
            row
            for row, (own, name) in enumerate(zip(self.truth, self.split, strict=True))
            if name == split and concept in (None, own)
        ]

    def dataset(self) -> Dataset:
        """The rows as NeuronLens reads them, with the texts of `benchmarks.words`."""
        names = [self.concepts[own] for own in self.truth]
        texts = [sentence(ids) for ids in self.rows]
        return Dataset("workload", list(range(len(texts))), texts, names, list(self.split))

    def params(self) -> DatasetParams:
        """How NeuronLens turns those texts into the same tokens: no prompt, nothing cut."""
        labels = {name: sentence([token]) for name, token in zip(self.concepts, self.labels, strict=True)}
        longest = max(map(len, (*self.rows, *self.documents)))
        return DatasetParams(prompt="{text}", labels=labels, max_tokens=max(4, longest))

    def texts(self) -> list[str]:
        """The documents as NeuronLens reads them."""
        return [sentence(ids) for ids in self.documents]

    def forwards(self) -> tuple[int, int]:
        """How many rows, and how many documents, go through the whole model in an audit."""
        count = len(self.concepts)
        return count * 3 * len(self.members("test")) + len(self.members("fit")), count * 3 * len(self.documents)


def random_workload(
    *,
    concepts: int,
    fit: int,
    test: int,
    documents: int,
    tokens: int | None = None,
    vocabulary: int = 50257,
    seed: int = 0,
) -> Workload:
    """Random token ids.

    Args:
        fit, test: rows of each concept.
        tokens: of each row and document; None takes those of `benchmarks.words.lengths`.
        vocabulary: of the model; the ids are those that `benchmarks.words` leaves free.
    """
    generator = np.random.default_rng(seed)

    def draw(count: int) -> list[list[int]]:
        long = lengths(count, generator) if tokens is None else np.full(count, tokens)
        return [generator.integers(FIRST, vocabulary - 1, length).tolist() for length in long]

    splits = ["fit"] * fit + ["test"] * test
    digits = len(str(concepts - 1))
    return Workload(
        tuple(f"concept-{place:0{digits}d}" for place in range(concepts)),
        tuple(generator.choice(np.arange(FIRST, vocabulary - 1), concepts, replace=False).tolist()),
        draw(concepts * len(splits)),
        [own for own in range(concepts) for _ in splits],
        splits * concepts,
        draw(documents),
    )


@dataclass(frozen=True)
class Settings:
    """How the audit is made.

    Attributes:
        layer: block whose output is read and edited, counted from 0.
        top: share of the neurons that are edited.
        tau: half-width of a range in standard deviations.
        scoring: `constrained` names the best of the labels, `free` the best of the vocabulary.
        pad_to: tokens that every row is padded to; None pads to the longest of each batch.
        batch: rows of a batch.
    """

    layer: int
    top: float = 0.3
    tau: float = 2.5
    scoring: Literal["constrained", "free"] = "constrained"
    pad_to: int | None = 408
    batch: int = 8


@dataclass(frozen=True)
class Outcome:
    """What a model answers in one state.

    Attributes:
        target_accuracy, complement_accuracy: share of right answers, on the concept's test rows and on all others.
        target_confidence, complement_confidence: mean probability of the row's own label in the whole vocabulary.
        perplexity: of the documents, None where there are none.
    """

    target_accuracy: float
    complement_accuracy: float
    target_confidence: float
    complement_confidence: float
    perplexity: float | None


@dataclass(frozen=True)
class ConceptResult:
    """Of one concept.

    Attributes:
        concept: its name.
        neurons: [K] by falling saliency.
        bounds: [2, K] float32 ends of their ranges.
        base, range, full: the unedited model, with the ranges set to zero, and with the whole neurons.
    """

    concept: str
    neurons: Ints
    bounds: npt.NDArray[np.float32]
    base: Outcome
    range: Outcome
    full: Outcome


def audit(
    model: GPT2LMHeadModel, workload: Workload, settings: Settings, concepts: int | None = None
) -> list[ConceptResult]:
    """The whole audit, a concept after the other, in the model's own dtype and on its device.

    Args:
        concepts: of how many of them; each is the same work.
    """
    found = []
    with torch.inference_mode():
        for concept, name in enumerate(workload.concepts[:concepts]):
            values = activations(model, workload, workload.members("fit", concept), settings)
            neurons, bounds = fit(values, settings)
            whole = np.array([[-np.inf], [np.inf]], dtype=np.float32).repeat(len(neurons), axis=1)
            base, ranged, full = (
                evaluate(model, workload, concept, settings, edit and _spread(*edit, values.shape[1], model.device))
                for edit in (None, (neurons, bounds), (neurons, whole))
            )
            found.append(ConceptResult(name, neurons, bounds, base, ranged, full))
    return found


def activations(model: GPT2LMHeadModel, workload: Workload, rows: Sequence[int], settings: Settings) -> Doubles:
    """[n, D] output of the block at the last real token, by whole passes."""
    found = []
    for ids, mask, last in _batches(workload, rows, settings, model.device):
        seen: list[torch.Tensor] = []
        with _hook(model, settings.layer, seen.append):
            model(input_ids=ids, attention_mask=mask)
        found.append(seen[0][torch.arange(len(ids)), last].double().cpu().numpy())
    return np.concatenate(found)


def fit(values: Doubles, settings: Settings) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The neurons with the largest mean |a|, lower index first where two are equal, and mean -+ tau standard deviations (ddof 0).

    Args:
        values: [n, D] of the concept's rows.

    Returns:
        [K] and [2, K].
    """
    saliency = np.abs(values).mean(axis=0)
    neurons = np.argsort(-saliency, kind="stable")[: int(settings.top * values.shape[1])]
    mean, spread = values.mean(axis=0)[neurons], settings.tau * values.std(axis=0)[neurons]
    return neurons, np.stack([mean - spread, mean + spread]).astype(np.float32)


def evaluate(
    model: GPT2LMHeadModel, workload: Workload, concept: int, settings: Settings, bounds: Bounds | None
) -> Outcome:
    """Answers on all test rows, and the perplexity of the documents, in one state of the model.

    Args:
        concept: whose rows are the target.
        bounds: what is set to zero; None leaves the model as it is.
    """
    rows = workload.members("test")
    labels = torch.tensor(workload.labels, device=model.device)
    right, confidence = [], []
    with _masked(model, settings.layer, bounds):
        for at, (ids, mask, last) in enumerate(_batches(workload, rows, settings, model.device)):
            logits = model(input_ids=ids, attention_mask=mask).logits[torch.arange(len(ids)), last].float()
            members = rows[at * settings.batch : (at + 1) * settings.batch]
            own = labels[[workload.truth[row] for row in members]]
            said = logits.argmax(dim=-1) if settings.scoring == "free" else labels[logits[:, labels].argmax(dim=-1)]
            right += (said == own).tolist()
            confidence += logits.softmax(dim=-1).gather(1, own[:, None])[:, 0].tolist()
        cost = perplexity(model, workload.documents) if workload.documents else None
    target = np.array([workload.truth[row] == concept for row in rows])
    means = [float(np.mean(np.array(part)[group])) for part in (right, confidence) for group in (target, ~target)]
    return Outcome(*means, cost)


def perplexity(model: GPT2LMHeadModel, documents: Sequence[Sequence[int]]) -> float:
    """exp(sum of the losses / number of predicted tokens), by the model's own loss, a document at a time."""
    total, predicted = 0.0, 0
    for document in documents:
        ids = torch.tensor([list(document)], device=model.device)
        total += float(model(input_ids=ids, labels=ids).loss) * (len(document) - 1)
        predicted += len(document) - 1
    return math.exp(total / predicted)


def _batches(
    workload: Workload, rows: Sequence[int], settings: Settings, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows in their order: ids and mask [B, T], padded on the right, and [B] column of the last real token."""
    for start in range(0, len(rows), settings.batch):
        encoded = [workload.rows[row] for row in rows[start : start + settings.batch]]
        lengths = torch.tensor([len(ids) for ids in encoded])
        ids = torch.zeros(len(encoded), settings.pad_to or int(lengths.max()), dtype=torch.long)
        for own, row in zip(ids, encoded, strict=True):
            own[: len(row)] = torch.tensor(row)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        yield ids.to(device), mask.long().to(device), (lengths - 1).to(device)


def _spread(neurons: Ints, bounds: npt.NDArray[np.float32], width: int, device: torch.device) -> Bounds:
    lower, upper = torch.full((width,), torch.inf), torch.full((width,), -torch.inf)
    lower[neurons], upper[neurons] = torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1])
    return lower.to(device), upper.to(device)


@contextlib.contextmanager
def _hook(model: GPT2LMHeadModel, layer: int, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """`change` sees the output of a block [B, T, D] and gives a new one, or None."""

    def on_output(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return change(output)
        new = change(output[0])
        return None if new is None else (new, *output[1:])

    handle = model.transformer.h[layer].register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _masked(model: GPT2LMHeadModel, layer: int, bounds: Bounds | None) -> Iterator[None]:
    """Zero for every value of a block's output that lies within its bounds."""
    if bounds is None:
        yield
        return
    lower, upper = bounds

    def zero(hidden: torch.Tensor) -> torch.Tensor:
        values = hidden.float()
        return torch.where((values >= lower) & (values <= upper), 0, hidden)

    with _hook(model, layer, zero):
        yield
