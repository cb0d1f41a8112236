"""Scoring: the answers of an edited model on the test rows, and the perplexity of ordinary text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.batching import Batch, Halving, Ints, collate, iterate, padding_of, token_budget_batches
from neuronlens.activations.hidden import KeptBatch, on_device
from neuronlens.activations.memory import CPU_TOKENS
from neuronlens.activations.readout import continuations, deciding_logits, needed_tokens, read_answers
from neuronlens.activations.tokens import TokenTracker
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import DatasetParams
from neuronlens.dataset import Dataset
from neuronlens.encoding import Labels, encoder_for, resolve_labels
from neuronlens.errors import DatasetError, NonFiniteActivationError
from neuronlens.evaluation.deciding import Unedited, deciding_passes
from neuronlens.evaluation.shared_prompt import SharedPrompt
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import AnyEdit, Joint, sites_of, where
from neuronlens.interventions.latents import on_activations
from neuronlens.values import Scoring

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]  # there is one for every edit and row
Doubles = npt.NDArray[np.float64]

_Pass = tuple[int, torch.Tensor, Dose]
_ROUNDINGS = 16
_CHECKED_ROWS = 4
_ROOM = 1 << 30


@dataclass(frozen=True)
class RowScores:
    """Per row, of the unedited model (index 0) and of M edited ones (1 to M).

    Attributes:
        concepts: [C] what `predicted` counts.
        rows: [N] place of each row in the dataset.
        truth: [N] the row's concept.
        predicted: [M + 1, N] concept named, -1 for none.
        confidence: [M + 1, N] probability of the row's own concept.
        changed, looked_at: [M + 1, N] activations changed, out of how many.
        no_op_difference: largest |logit difference| that a hook which changes nothing makes; must be 0.
        suffix_difference: largest |logit difference| between the short cuts and a full pass with the same edit.
        suffix_tolerance: what the model's precision may leave of it, since short cuts add up the same products in another order.
    """

    concepts: tuple[str, ...]
    rows: Ints
    truth: Ints
    predicted: Counts
    confidence: Floats
    changed: Counts
    looked_at: Counts
    no_op_difference: float
    suffix_difference: float
    suffix_tolerance: float = 0.0

    @cached_property  # of each method of a site its row is asked for
    def correct(self) -> npt.NDArray[np.bool_]:
        """[M + 1, N]."""
        return np.equal(self.predicted, self.truth)

    def take(self, edits: Sequence[int]) -> RowScores:
        """The scores of the unedited model and of some edits, in their order."""
        index = [0, *edits]
        names = ("predicted", "confidence", "changed", "looked_at")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def beside(self, other: RowScores) -> RowScores:
        """These edits, and behind them another's of the same rows. What the unedited model answers is taken from here."""

        def both(name: str) -> Any:
            return np.concatenate([getattr(self, name), getattr(other, name)[1:]])

        names = ("predicted", "confidence", "changed", "looked_at")
        return replace(self, **{name: both(name) for name in names})


def score_rows(
    checkpoint: Checkpoint,
    dataset: Dataset,
    interventions: Sequence[AnyEdit],
    *,
    split: str = "test",
    scoring: Scoring = "constrained",
    batch_tokens: int = CPU_TOKENS,
    text: DatasetParams | None = None,
    kept: Sequence[KeptBatch] = (),
) -> RowScores:
    """Answers on the rows of a split, unedited and under each intervention. Batch by batch: the prefix once, then every edit's suffix.

    With `generate` each edit also acts on a greedy decoding of its own, from the prompt to one token past the longest label; the answer is
    the label that the text names. Confidence and dose stay those of the prompt's forward call, as in the other scorings: they do not depend
    on how long a row's answer happens to be. (So an edit of the `generated` tokens has a dose of 0 here, and may change answers still.)

    Args:
        batch_tokens: tokens of a batch, padding included; one that does not fit into memory is cut.
        kept: what an unedited pass over the batches of the split has left. It saves that pass and changes no bit of the scores.

    Raises:
        DatasetError: the split has no rows.
        NonFiniteActivationError: a row has no answer, since a logit is NaN or infinite.
    """
    scorer = RowScorer.of(
        checkpoint,
        dataset,
        interventions,
        split=split,
        scoring=scoring,
        batch_tokens=batch_tokens,
        text=text,
        kept=kept,
    )
    return scorer.together([scorer.score(range(len(scorer.batches)))], scorer.fidelity())


@dataclass(frozen=True)
class PartScores:
    """Scores of some of the rows, see `RowScores`.

    Attributes:
        columns: [n] which rows, counted within the split.
    """

    columns: Ints
    predicted: Counts
    confidence: Floats
    changed: Counts
    looked_at: Counts


@dataclass(frozen=True)
class RowScorer:
    """Scores rows of a split, some batches at a time.

    Attributes:
        rows: [N] place of each row of the split in the dataset.
        encoded: [N] their token ids.
        truth: [N] their concepts.
        batches: in columns of the split.
        kept: see `score_rows`; of all batches or none.
    """

    checkpoint: Checkpoint
    dataset: Dataset
    interventions: Sequence[AnyEdit]
    scoring: Scoring
    labels: Labels
    rows: Ints
    encoded: Sequence[Sequence[int]]
    truth: Ints
    batches: Sequence[Ints]
    kept: Sequence[KeptBatch]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        dataset: Dataset,
        interventions: Sequence[AnyEdit],
        *,
        split: str,
        scoring: Scoring = "constrained",
        batch_tokens: int = CPU_TOKENS,
        text: DatasetParams | None = None,
        kept: Sequence[KeptBatch] = (),
    ) -> RowScorer:
        """See `score_rows`.

        Raises:
            DatasetError: the split has no rows, or labels cannot be told apart.
        """
        params = text or DatasetParams()
        labels = resolve_labels(checkpoint, dataset.concepts, params, scoring)
        rows = np.array([i for i, name in enumerate(dataset.split) if name == split], dtype=np.int64)
        if not len(rows):
            raise DatasetError(f"the split {split!r} has no rows", cure="Every split needs some of each concept.")
        encoded = encoder_for(checkpoint, params, labels.room(scoring)).encode([dataset.text[i] for i in rows])
        truth = np.array([labels.concepts.index(dataset.concept[i]) for i in rows], dtype=np.int64)
        batches = token_budget_batches([len(ids) for ids in encoded], batch_tokens)
        if [list(part.rows) for part in kept] != [list(rows[batch]) for batch in batches]:
            kept = ()
        interventions = on_activations(checkpoint.model, interventions)
        return cls(checkpoint, dataset, interventions, scoring, labels, rows, encoded, truth, batches, kept)

    @cached_property
    def _shared(self) -> SharedPrompt | None:
        alone = [item for item in self.interventions if not isinstance(item, Joint)]
        return SharedPrompt.of_rows(self.checkpoint.model, self.encoded, alone, _ROOM) if alone else None

    def collated(self) -> Iterator[Batch]:
        """The batches, ready for the model."""
        pad_id, device = padding_of(self.checkpoint), self.checkpoint.model.device
        return iterate(self.encoded, self.batches, pad_id=pad_id, device=device)

    @torch.inference_mode()
    def fidelity(self) -> tuple[float, float, float]:
        """`check_fidelity` on a few rows."""
        model, shared = self.checkpoint.model, self._shared
        pad_id = padding_of(self.checkpoint)
        few = collate(self.encoded, self.batches[-1][-_CHECKED_ROWS:], pad_id=pad_id, device=model.device)
        return check_fidelity(model, self.interventions, few, self.encoded[0][: shared.length] if shared else ())

    @torch.inference_mode()
    def score(self, some: range) -> PartScores:
        """Scores of the rows of some batches.

        Raises:
            NonFiniteActivationError: a row has no answer, since a logit is NaN or infinite.
        """
        checkpoint, scoring, interventions = self.checkpoint, self.scoring, self.interventions
        model, classifier = checkpoint.model, checkpoint.kind == "classifier"
        batches = [self.batches[i] for i in some]
        kept = [self.kept[i] for i in some] if self.kept else []
        columns = np.concatenate(batches)
        slot = np.empty(len(self.rows), dtype=np.int64)  # column of the split -> column here
        slot[columns] = np.arange(len(columns))
        shape = (len(interventions) + 1, len(columns))
        predicted, changed, looked_at = (np.zeros(shape, dtype=np.int32) for _ in range(3))
        confidence = np.zeros(shape, dtype=np.float32)
        said: dict[int, str] = {}  # what the unedited model went on with
        for part, members in zip(kept, batches, strict=False):
            said |= zip(members.tolist(), part.texts, strict=False)
        iterated = iterate(self.encoded, batches, pad_id=padding_of(checkpoint), device=model.device)
        tokens = needed_tokens(self.labels, scoring, classifier=classifier)
        halving = Halving()  # of what generation needs, which is more than a forward call does

        def go_on(part: Batch) -> list[str]:
            return continuations(model, checkpoint.tokenizer, self.encoded, part.rows, self.labels.longest + 1)

        passes = all_deciding(model, interventions, iterated, tokens=tokens, shared=self._shared, kept=kept)
        for batch, index, logits, dose in passes:
            texts: Sequence[str] = ()
            if scoring == "generate" and not index and said:
                texts = [said[place] for place in batch.rows.tolist()]
            elif scoring == "generate":
                with edit(model, [interventions[index - 1]] if index else []):
                    texts = [text for _, found in halving.run(batch, go_on) for text in found]
            answers = read_answers(logits, self.labels, scoring, classifier=classifier, texts=texts)
            for broken in answers.broken:
                what = f"under the edit of {where(interventions[index - 1])}" if index else "of the unedited model"
                raise NonFiniteActivationError(
                    f"row {self.dataset.row[self.rows[batch.rows[broken]]]}: a logit {what} is not finite; "
                    "try checkpoint.dtype=float32, and check the weights"
                )
            own, at = self.truth[batch.rows], slot[batch.rows]
            predicted[index, at] = answers.predicted.numpy()
            confidence[index, at] = answers.confidence.numpy()[np.arange(len(own)), own]
            if index:
                changed[index, at], looked_at[index, at] = dose.changed.cpu(), dose.looked_at.cpu()
        return PartScores(columns, predicted, confidence, changed, looked_at)

    def together(self, parts: Sequence[PartScores], fidelity: tuple[float, float, float]) -> RowScores:
        """The scores of all rows."""
        order = np.argsort(np.concatenate([part.columns for part in parts]))

        def whole(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts], axis=1)[:, order]

        found = (whole("predicted"), whole("confidence"), whole("changed"), whole("looked_at"))
        return RowScores(self.labels.concepts, self.rows, self.truth, *found, *fidelity)


def check_fidelity(
    model: PreTrainedModel, interventions: Sequence[AnyEdit], batch: Batch, prompt: Sequence[int] = ()
) -> tuple[float, float, float]:
    """Do the hooks and the short cuts do what they say? Checked on one batch, at every site that is edited, and at all that are together.

    Args:
        prompt: tokens that rows share and that are run once for all of them.

    Returns:
        Largest |logit difference| between the plain forward pass and one with hooks that change nothing (0 unless something is broken);
        between a full pass with an edit and the short cut with the same edit; and what the latter may not exceed, `_ROUNDINGS` roundings
        of the largest logit in the model's precision.
    """
    plain, no_op, suffix = deciding_logits(model, batch), 0.0, 0.0
    for sites in sorted({sites_of(item) for item in interventions}):
        item = next(item for item in interventions if sites_of(item) == sites)
        with edit(model, item.idle()):
            no_op = max(no_op, float((deciding_logits(model, batch) - plain).abs().max()))
        with edit(model, item):
            full = deciding_logits(model, batch)
        shared = SharedPrompt(model, prompt, [item], 0) if prompt and not isinstance(item, Joint) else None
        resumed = next(logits for index, logits, _ in deciding_passes(model, [item], batch, shared=shared) if index)
        suffix = max(suffix, float((full - resumed).abs().max()))
    tolerance = _ROUNDINGS * torch.finfo(model.dtype).eps * float(plain.abs().max())
    return no_op, suffix, tolerance


def all_deciding(
    model: PreTrainedModel,
    interventions: Sequence[AnyEdit],
    batches: Iterable[Batch],
    *,
    tokens: Sequence[int] | None = None,
    shared: SharedPrompt | None = None,
    kept: Sequence[KeptBatch] = (),
) -> Iterator[tuple[Batch, int, torch.Tensor, Dose]]:
    """Deciding logits of each batch, unedited (index 0) and under each intervention (1 to M), with the edit's dose.

    Batch by batch, so that what the prefix gave is in memory for every edit and nothing is spilled. A batch that does not fit into memory
    is cut in two, and what it gave before is given again by its parts.

    Args:
        tokens, shared: as of `deciding_passes`.
        kept: what an unedited pass has left of the batches.
    """
    halving = Halving()
    for batch, left in zip_longest(batches, kept):

        def passes(part: Batch, whole: Batch = batch, left: KeptBatch | None = left) -> Iterator[_Pass]:
            known = _unedited(model, part, left) if left is not None and part is whole else None
            return deciding_passes(model, interventions, part, known, tokens=tokens, shared=shared)

        for part, (index, logits, dose) in halving.stream(batch, passes):
            yield part, index, logits, dose


def _unedited(model: PreTrainedModel, batch: Batch, kept: KeptBatch) -> Unedited:
    tracker = TokenTracker(model)
    tracker.see(batch.attention_mask, batch.input_ids.shape[1])
    outputs = {count: on_device(output, model.device) for count, output in kept.outputs.items()}
    return Unedited(on_device(kept.deciding, model.device), outputs, tracker)
