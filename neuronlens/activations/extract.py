"""Extraction: one pass over all rows gives the pooled activations of every site and the unedited model's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuronlens.activations.batching import Batch, Ints, iterate, pad_id_of, token_budget_batches
from neuronlens.activations.capture import capture
from neuronlens.activations.ordinary import collect_ordinary, write_ordinary
from neuronlens.activations.readout import continuations, deciding_logits, needed_tokens, read_answers
from neuronlens.activations.store import Activations, Floats, plan_shards, rows_table, shard_path, write_shard
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, default_device, open_checkpoint
from neuronlens.config import Config, DatasetParams, Pooling, Scoring
from neuronlens.dataset import Dataset, read_dataset, spare_documents
from neuronlens.encoding import Labels, encoder_for, resolve_labels
from neuronlens.errors import NonFiniteActivationError
from neuronlens.progress import track
from neuronlens.sites import Site, expand_sites, layer_count, resolve, site_width


@dataclass(frozen=True)
class _Pass:
    """What one batch gave: values per site [D, B] and one entry per row."""

    values: Mapping[Site, Floats]
    rows: Ints
    position: Ints
    predicted: Ints
    confidence: Floats


def collect_activations(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sites: Sequence[str] = ("resid_post.last",),
    *,
    pooling: Pooling = "auto",
    batch_tokens: int = 8192,
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
    """
    params = text or DatasetParams()
    wanted = expand_sites(sites, layer_count(checkpoint.config))
    labels = resolve_labels(checkpoint, dataset.concepts, params, scoring)
    encoded = encoder_for(checkpoint, params, labels.room(scoring)).encode(dataset.text)
    batches = token_budget_batches([len(ids) for ids in encoded], batch_tokens)
    passes = list(_passes(checkpoint, dataset, encoded, batches, wanted, labels, pooling, scoring))
    return _assemble(passes, dataset, encoded, labels, wanted)


def extract(config: Config, inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: shards of neuron-major tiles per site, rows.parquet, and ordinary/, a sample of the tokens that ranges are not meant for.

    Args:
        inputs: `prepare`, the folder of that stage.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(inputs["prepare"])
    sites = expand_sites(config.extract.sites, layer_count(checkpoint.config))
    scoring = config.evaluate.scoring
    labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, scoring)
    encoder = encoder_for(checkpoint, config.dataset, labels.room(scoring))
    encoded = encoder.encode(dataset.text)
    batches = token_budget_batches([len(ids) for ids in encoded], config.extract.batch_tokens)
    shards = plan_shards(batches, [site_width(checkpoint.config, site) for site in sites])

    passes = _passes(checkpoint, dataset, encoded, batches, sites, labels, config.extract.pooling, scoring)
    progress = track(passes, len(batches), "extract")
    tables = []
    for shard, members in enumerate(shards):
        part = _assemble([next(progress) for _ in members], dataset, encoded, labels, sites)
        for site, values in part.values.items():
            write_shard(shard_path(out, site, shard), values)
        columns = {
            name: getattr(part, name) for name in ("row", "position", "tokens", "predicted", "correct", "confidence")
        }
        tables.append(rows_table({**columns, "shard": np.full(len(part), shard), "slot": np.arange(len(part))}))
    import pyarrow as pa

    table = pa.concat_tables(tables)
    write_table(out / "rows.parquet", table)
    documents = spare_documents(config.evaluate)
    ordinary = collect_ordinary(
        checkpoint,
        dataset,
        config.extract.sites,
        documents=documents,
        pooling=config.extract.pooling,
        batch_tokens=config.extract.batch_tokens,
        text=config.dataset,
        seed=config.seed,
    )
    write_ordinary(out, ordinary)
    model = checkpoint.model
    return {
        "rows": len(dataset),
        "shards": len(shards),
        "batches": len(batches),
        "sites": {str(site): resolve(model, site).path for site in sites},
        "widths": {str(site): site_width(checkpoint.config, site) for site in sites},
        "spare_documents": len(documents),
        "pooling": resolve_pooling(config.extract.pooling, checkpoint.config.model_type),
        "prompt": encoder.prompt,
        "tokens": sum(len(ids) for ids in encoded),
        "padding_share": round(1 - sum(map(len, encoded)) / sum(len(b) * len(encoded[int(b[-1])]) for b in batches), 6),
        "cut_rows": sum(len(ids) == encoder.max_tokens for ids in encoded),
        "accuracy": float(np.mean(table["correct"].to_numpy(zero_copy_only=False))),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": default_device(),
    }


def _passes(
    checkpoint: Checkpoint,
    dataset: Dataset,
    encoded: Sequence[Sequence[int]],
    batches: Sequence[Ints],
    sites: Sequence[Site],
    labels: Labels,
    pooling: Pooling,
    scoring: Scoring,
) -> Iterator[_Pass]:
    model = checkpoint.model
    truth = np.array([labels.concepts.index(name) for name in dataset.concept])
    tokens = needed_tokens(labels, scoring, classifier=checkpoint.kind == "classifier")
    with torch.inference_mode(), capture(model, sites, pooling) as captured:
        for batch in iterate(encoded, batches, pad_id=pad_id_of(checkpoint.tokenizer), device=model.device):
            logits = deciding_logits(model, batch, tokens)
            values = {site: captured[site].float().T.contiguous().cpu().numpy() for site in sites}
            position = captured.position.cpu().numpy()  # what was captured is read before generating captures anew
            _refuse_non_finite(values, dataset, batch)
            texts: Sequence[str] = ()
            if scoring == "generate":
                texts = continuations(model, checkpoint.tokenizer, encoded, batch.rows, labels.longest + 1)
            answers = read_answers(logits, labels, scoring, classifier=checkpoint.kind == "classifier", texts=texts)
            for slot in answers.broken:
                raise NonFiniteActivationError(
                    f"row {dataset.row[int(batch.rows[slot])]}: a logit of the unedited model is not finite; "
                    "try checkpoint.dtype=float32, and check the weights"
                )
            yield _Pass(
                values,
                batch.rows,
                position,
                answers.predicted.numpy(),
                answers.confidence.numpy()[np.arange(len(batch.rows)), truth[batch.rows]],
            )


def _refuse_non_finite(values: Mapping[Site, Floats], dataset: Dataset, batch: Batch) -> None:
    for site, found in values.items():
        bad = ~np.isfinite(found)
        if bad.any():
            neuron, slot = np.argwhere(bad)[0]
            raise NonFiniteActivationError(
                f"site {site}, neuron {neuron}, row {dataset.row[int(batch.rows[slot])]}: the activation is {found[neuron, slot]}; "
                "try checkpoint.dtype=float32, and check the weights"
            )


def _assemble(
    passes: Sequence[_Pass], dataset: Dataset, encoded: Sequence[Sequence[int]], labels: Labels, sites: Sequence[Site]
) -> Activations:
    """The passes' rows as one block, ordered by concept, then row."""
    index = np.concatenate([part.rows for part in passes])
    concept = [dataset.concept[i] for i in index]
    row = np.array([dataset.row[i] for i in index], dtype=np.int64)
    order = np.lexsort((row, np.array([labels.concepts.index(name) for name in concept])))
    predicted_id = np.concatenate([part.predicted for part in passes])[order]
    predicted = [labels.concepts[i] if i >= 0 else None for i in predicted_id]
    concept = [concept[i] for i in order]
    return Activations(
        {site: np.concatenate([part.values[site] for part in passes], axis=1)[:, order] for site in sites},
        row=row[order],
        concept=concept,
        split=[dataset.split[int(index[i])] for i in order],
        position=np.concatenate([part.position for part in passes])[order],
        tokens=np.array([len(encoded[int(index[i])]) for i in order], dtype=np.int64),
        predicted=predicted,
        correct=np.array([said == name for said, name in zip(predicted, concept, strict=True)]),
        confidence=np.concatenate([part.confidence for part in passes])[order],
    )
