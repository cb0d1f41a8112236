"""Extraction: one pass over all rows gives activations of every site, the unedited model's answers, and what evaluation starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neuronlens.activations.batching import placed, split_batches
from neuronlens.activations.disk import check_room, taken
from neuronlens.activations.extraction import Extraction, assemble
from neuronlens.activations.hidden import hand_over, kept_key
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.passes import Passes
from neuronlens.activations.store import Activations
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import Config, DatasetParams
from neuronlens.dataset import Dataset
from neuronlens.encoding import encoder_for, resolve_labels
from neuronlens.parts import Held, Parts
from neuronlens.sites import expand_sites, layer_count
from neuronlens.sources import Sources
from neuronlens.values import BatchTokens, Pooling, Scoring


def collect_activations(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sites: Sequence[str] = ("resid_post.last",),
    *,
    pooling: Pooling = "auto",
    batch_tokens: BatchTokens = "auto",
    scoring: Scoring = "constrained",
    text: DatasetParams | None = None,
) -> Activations:
    """Pooled activations and answers of all rows, in memory.

    Args:
        sites: such as `resid_post.last` or `mlp_post.all`.
        text: how rows become tokens (prompt, labels, max_tokens).

    Raises:
        SiteError, DatasetError: a site or a concept the model does not have.
        NonFiniteActivationError: an activation or a logit is NaN or infinite.
        OutOfMemoryError: a single row does not fit.
    """
    params = text or DatasetParams()
    wanted = expand_sites(sites, layer_count(checkpoint.config))
    labels = resolve_labels(checkpoint, dataset.concepts, params, scoring)
    encoded = encoder_for(checkpoint, params, labels.room(scoring)).encode(dataset.text)
    budget = batch_budget(batch_tokens, checkpoint.model)
    batches = split_batches([len(ids) for ids in encoded], dataset.split, budget)
    passes = Passes(checkpoint, dataset, encoded, labels, wanted, pooling, scoring)
    found = [part for parts in passes.over(placed(batches)) for part in parts]
    return assemble(found, passes.answers(found), dataset, encoded, labels)


def extract(
    config: Config, inputs: Mapping[str, Path], out: Path, parts: Parts | None = None, *, keep_bytes: int | None = None
) -> dict[str, object]:
    """The stage: shards of neuron-major tiles per site, rows.parquet, and ordinary/, a sample of the tokens that ranges are not meant for.

    What the stage `evaluate` can start from is handed over in memory (`neuronlens.activations.hidden`), as far as it was read by this
    process in this call.

    Args:
        inputs: `prepare`, the folder of that stage.
        out: an empty folder.
        parts: shards that are there already are not read again; all are, unless told otherwise.
        keep_bytes: memory that may be held for `evaluate`; a quarter of what is available unless told otherwise.

    Returns:
        Facts for the manifest.

    Raises:
        UserError: the disk has no room for it.
    """
    own = Parts(out / ".parts") if parts is None else parts
    job = _Read(own.folder, Sources(config, inputs), keep_bytes)
    found = job.plan()
    try:
        # what an interrupted run has left need not be made again
        check_room(out, found.stored.most - taken(own.folder))
        facts = found.assemble(own.make(found.names, job), out)
        hand_over(kept_key(config, found.checkpoint, found.dataset, found.batch_tokens), found.keeper.batches)
    finally:
        _held.clear()
    if parts is None:
        own.clear()
    return facts


_held: Held[Extraction] = Held()


@dataclass(frozen=True)
class _Read:
    """Reads a part, in whichever process it is.

    Attributes:
        key: where the parts lie: no other run's lie there.
        keep_bytes: see `extract`.
    """

    key: Path
    sources: Sources
    keep_bytes: int | None

    def __call__(self, name: str, out: Path) -> Mapping[str, object]:
        return self.plan().make(name, out)

    def plan(self) -> Extraction:
        """The plan of the run, made once in each process."""
        prepared = self.sources.folders["prepare"]
        return _held.get(self.key, lambda: Extraction.plan(self.sources.config, prepared, self.keep_bytes))

    @property
    def places(self) -> Mapping[str, Path]:
        return self.sources.places

    def at(self, places: Mapping[str, Path]) -> _Read:
        return replace(self, sources=self.sources.at(places), keep_bytes=0)  # nobody there asks for hidden states
