"""Extraction: one pass over all rows gives activations of every site, the unedited model's answers, and what evaluation starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuronlens.activations.batching import split_batches
from neuronlens.activations.hidden import Keeper, hand_over, kept_key
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.ordinary import OrdinarySample, write_ordinary
from neuronlens.activations.passes import Pass, Passes
from neuronlens.activations.readout import Answers
from neuronlens.activations.store import Activations, plan_shards, rows_table, shard_path, write_shard
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.activations.writer import ShardWriter
from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, default_device, open_checkpoint
from neuronlens.config import BatchTokens, Config, DatasetParams, Pooling, Scoring
from neuronlens.dataset import Dataset, read_dataset, spare_documents
from neuronlens.encoding import Labels, encoder_for, resolve_labels
from neuronlens.progress import track
from neuronlens.sites import expand_sites, layer_count, resolve, site_width

if TYPE_CHECKING:
    import pyarrow as pa


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
    found = [part for parts in passes.over(batches) for part in parts]
    return _assemble(found, passes.answers(found), dataset, encoded, labels)


def extract(
    config: Config, inputs: Mapping[str, Path], out: Path, *, keep_bytes: int | None = None
) -> dict[str, object]:
    """The stage: shards of neuron-major tiles per site, rows.parquet, and ordinary/, a sample of the tokens that ranges are not meant for.

    What the stage `evaluate` can start from is handed over in memory (`neuronlens.activations.hidden`).

    Args:
        inputs: `prepare`, the folder of that stage.
        out: an empty folder.
        keep_bytes: memory that may be held for `evaluate`; a quarter of what is available unless told otherwise.

    Returns:
        Facts for the manifest.
    """
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(inputs["prepare"])
    model, params, scoring = checkpoint.model, config.extract, config.evaluate.scoring
    sites = expand_sites(params.sites, layer_count(checkpoint.config))
    widths = {site: site_width(checkpoint.config, site) for site in sites}
    labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, scoring)
    encoder = encoder_for(checkpoint, config.dataset, labels.room(scoring))
    encoded = encoder.encode(dataset.text)
    lengths = [len(ids) for ids in encoded]
    budget = batch_budget(params.batch_tokens, model)
    by_split = split_batches(lengths, dataset.split, budget)
    batches = [rows for members in by_split.values() for rows in members]
    shards = plan_shards(batches, [*widths.values()])
    documents = spare_documents(config.evaluate)
    sample = OrdinarySample(
        checkpoint,
        dataset,
        sites,
        lambda places: [encoded[i] for i in places],
        documents=documents,
        pooling=params.pooling,
        max_tokens=config.dataset.max_tokens,
        seed=config.seed,
    )
    keeper = Keeper.of_sites(model, sites, by_split, lengths, keep_bytes)
    passes = Passes(checkpoint, dataset, encoded, labels, sites, params.pooling, scoring, keeper, sample.rows)

    tables: list[pa.Table] = []
    with contextlib.closing(passes.over(by_split)) as running, ShardWriter() as writer:
        progress = track(running, len(batches), "extract")
        for shard, members in enumerate(shards):
            found = [part for _ in members for part in next(progress)]
            answers = passes.answers(found)

            def write(shard: int = shard, found: Sequence[Pass] = found, answers: Answers = answers) -> None:
                part = _assemble(found, answers, dataset, encoded, labels)
                for site, values in part.values.items():
                    write_shard(shard_path(out, site, shard), values)
                tables.append(_shard_rows(part, shard))

            writer.submit(write)
    import pyarrow as pa

    table = pa.concat_tables(tables)
    write_table(out / "rows.parquet", table)
    sample.read_documents(checkpoint, budget, passes.halving)
    write_ordinary(out, sample.ordinary())
    hand_over(kept_key(config, checkpoint, dataset, budget), keeper.batches)
    return {
        "rows": len(dataset),
        "shards": len(shards),
        "batches": len(batches),
        "batch_tokens": budget,
        "halvings": passes.halving.count,
        "sites": {str(site): resolve(model, site).path for site in sites},
        "widths": {str(site): width for site, width in widths.items()},
        "spare_documents": len(documents),
        "pooling": resolve_pooling(params.pooling, checkpoint.config.model_type),
        "prompt": encoder.prompt,
        "tokens": sum(lengths),
        "padding_share": round(1 - sum(lengths) / sum(len(rows) * lengths[int(rows[-1])] for rows in batches), 6),
        "cut_rows": sum(length == encoder.max_tokens for length in lengths),
        "accuracy": float(np.mean(table["correct"].to_numpy(zero_copy_only=False))),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": default_device(),
    }


def _assemble(
    passes: Sequence[Pass], answers: Answers, dataset: Dataset, encoded: Sequence[Sequence[int]], labels: Labels
) -> Activations:
    """The passes' rows, with the answers on them, as one block, ordered by concept, then row."""
    index = np.concatenate([part.rows for part in passes])
    row = np.array([dataset.row[i] for i in index], dtype=np.int64)
    truth = np.array([labels.concepts.index(dataset.concept[i]) for i in index])
    order = np.lexsort((row, truth))
    index, row, truth = index[order], row[order], truth[order]
    predicted, confidence = answers.predicted.numpy()[order], answers.confidence.numpy()[order]
    values = {}
    for site in passes[0].values:
        together = np.concatenate([part.values[site] for part in passes])
        values[site] = np.ascontiguousarray(together[order].T)
    return Activations(
        values,
        row=row,
        concept=[dataset.concept[i] for i in index],
        split=[dataset.split[i] for i in index],
        position=np.concatenate([part.position for part in passes])[order],
        tokens=np.array([len(encoded[i]) for i in index], dtype=np.int64),
        predicted=[labels.concepts[i] if i >= 0 else None for i in predicted],
        correct=predicted == truth,
        confidence=confidence[np.arange(len(truth)), truth],
    )


def _shard_rows(part: Activations, shard: int) -> pa.Table:
    """The rows of rows.parquet that stand in a shard."""
    names = ("row", "position", "tokens", "predicted", "correct", "confidence")
    columns = {name: getattr(part, name) for name in names}
    return rows_table({**columns, "shard": np.full(len(part), shard), "slot": np.arange(len(part))})
