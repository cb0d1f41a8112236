"""An extraction as it is planned, and its parts: shards of rows, and the documents among which ordinary tokens are drawn.

What is planned depends on the inputs alone, so that whoever plans it again, later or on another machine, gets the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa

from neuronlens.activations.batching import Halving, Ints, placed, split_batches
from neuronlens.activations.disk import SUMMARIES, Stored
from neuronlens.activations.hidden import Keeper
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.ordinary import DrawnTokens, OrdinarySample, write_ordinary
from neuronlens.activations.passes import Pass, Passes
from neuronlens.activations.readout import Answers
from neuronlens.activations.store import (
    Activations,
    Placed,
    plan_groups,
    plan_shards,
    read_shard,
    rows_table,
    shard_path,
    write_shard,
)
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.artifact import hash_value, read_manifest, read_table, write_table
from neuronlens.checkpoint import Checkpoint, device_of, open_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import Dataset, read_dataset
from neuronlens.encoding import Encoder, Labels, encoder_for, resolve_labels
from neuronlens.parts import check_planned, go_on, link_files
from neuronlens.progress import Progress
from neuronlens.sites import Site, expand_sites, layer_count, resolve, site_width
from neuronlens.streaming.summary import Summary, read_summary, write_summary
from neuronlens.structure import doubts
from neuronlens.text_files import spare_documents

ROWS = "rows.parquet"
DOCUMENTS = "documents"

# What is summed up at once, of all sites together, where rows are not kept: many rows at once cost less time, and a part must not need more
# memory the more rows it has.
_BLOCK_BYTES = 512 << 20
_BLOCK_ROWS = 256
_PART_ROWS = 512  # of a part at least, since each is as large as the whole
_ENCODED_ROWS = 1024


@dataclass(frozen=True)
class Extraction:
    """A planned extraction.

    Attributes:
        encoder, encoded: [N] token ids of the rows, and what made them.
        batches: split -> its batches.
        stored: what it leaves on disk, and whether rows are kept.
        shards: the batches of each shard, with their split and their place in it. Where rows are not kept a shard is summed up.
        documents: ordinary text.
        sample: which tokens are drawn.
        passes: runs the model.
    """

    config: Config
    checkpoint: Checkpoint
    dataset: Dataset
    labels: Labels
    sites: tuple[Site, ...]
    encoder: Encoder
    encoded: Sequence[Sequence[int]]
    batch_tokens: int
    batches: Mapping[str, Sequence[Ints]]
    stored: Stored
    shards: Sequence[Sequence[Placed]]
    documents: Sequence[str]
    sample: OrdinarySample
    keeper: Keeper
    passes: Passes
    progress: Progress
    _model: Lock = field(default_factory=Lock)  # it runs one batch at a time, and its hooks belong to one shard

    @classmethod
    def plan(cls, config: Config, prepared: Path, keep_bytes: int | None = None) -> Extraction:
        """What is to be read.

        Args:
            prepared: folder of the stage `prepare`.
            keep_bytes: memory that may be held for the stage `evaluate`; a quarter of what is available unless told otherwise.

        Raises:
            UserError: the checkpoint or the data cannot be audited.
        """
        checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(prepared)
        model, params, scoring = checkpoint.model, config.extract, config.evaluate.scoring
        sites = expand_sites(params.sites, layer_count(checkpoint.config))
        labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, scoring)
        encoder = encoder_for(checkpoint, config.dataset, labels.room(scoring))
        # a tokenizer takes kilobytes for each text of a call on the way
        starts = range(0, len(dataset), _ENCODED_ROWS)
        encoded = [ids for start in starts for ids in encoder.encode(dataset.text[start : start + _ENCODED_ROWS])]
        lengths = [len(ids) for ids in encoded]
        budget = batch_budget(params.batch_tokens, model)
        batches = split_batches(lengths, dataset.split, budget)
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
        keeper = Keeper.of_sites(model, sites, batches, lengths, keep_bytes)
        listed, widths = placed(batches), [site_width(checkpoint.config, site) for site in sites]
        dtype = str(model.dtype).removeprefix("torch.")
        stored = Stored.of(params, widths, len(dataset), len(labels.concepts), dtype)
        return cls(
            config,
            checkpoint,
            dataset,
            labels,
            sites,
            encoder,
            encoded,
            budget,
            batches,
            stored,
            plan_shards(listed, widths)
            if stored.keeps_rows
            else plan_groups(listed, max(_PART_ROWS, -(-len(dataset) // SUMMARIES))),
            documents,
            sample,
            keeper,
            Passes(checkpoint, dataset, encoded, labels, sites, params.pooling, scoring, keeper, sample.rows),
            Progress(len(listed), "extract"),
        )

    @cached_property
    def names(self) -> list[str]:
        """Of the parts, the shards first and in order. They name what their bytes may depend on beside the inputs."""
        model = self.checkpoint.model
        how = hash_value([device_of(self.checkpoint), str(model.dtype), self.batch_tokens, len(self.shards)])[:8]
        shards = [f"{how}-shard-{shard:05d}" for shard in range(len(self.shards))]
        return [*shards, f"{how}-{DOCUMENTS}"] if self.documents else shards

    def make(self, name: str, out: Path) -> dict[str, object]:
        """Read a part into a folder.

        Returns:
            Facts: how many batches did not fit into memory.

        Raises:
            NonFiniteActivationError: an activation or a logit is NaN or infinite.
            OutOfMemoryError: a single row does not fit.
            NeuronLensError: this machine plans other parts.
        """
        check_planned(name, self.names)
        place = self.names.index(name)
        if place == len(self.shards):
            return self._read_documents(out)
        # what does not fit is found anew, so that no shard depends on another
        passes = replace(self.passes, halving=Halving())
        (self._read_shard if self.stored.keeps_rows else self._sum_up)(passes, place, out)
        _write_drawn(out, self.sample.rows, self._rows(place))
        return {"halvings": passes.halving.count}

    def _read_shard(self, passes: Passes, shard: int, out: Path) -> None:
        with self._model:
            found, answers = self._run(passes, self.shards[shard])
        # the model is free for the next shard while this one is written
        part = assemble(found, answers, self.dataset, self.encoded, self.labels)
        for site, values in part.values.items():
            write_shard(shard_path(out, site, shard), values)
        write_table(out / ROWS, _slots(part, shard, 0))

    def _sum_up(self, passes: Passes, shard: int, out: Path) -> None:
        """Keep the statistics of a shard's fit rows, and of all its rows the answers."""
        tables: list[pa.Table] = []
        summaries = dict.fromkeys(self.sites, Summary({}, {}))
        room = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // (4 * self._width)))
        with self._model:
            for block in plan_groups(self.shards[shard], room):
                found, answers = self._run(passes, block)
                part = assemble(found, answers, self.dataset, self.encoded, self.labels)
                tables.append(_slots(part, shard, sum(map(len, tables))))
                fit = [i for i, split in enumerate(part.split) if split == "fit"]
                concept = [part.concept[i] for i in fit]
                for site, values in part.values.items() if len(fit) else ():
                    own = Summary.of(values[:, fit], part.row[fit], concept, part.correct[fit])
                    summaries[site] = summaries[site].merge(own)
            for site in self.sites:  # before the next part begins, or there would be two summaries in memory
                write_summary(out / f"site={site}", summaries.pop(site))
        write_table(out / ROWS, pa.concat_tables(tables))

    def _run(self, passes: Passes, batches: Sequence[Placed]) -> tuple[list[Pass], Answers]:
        found: list[Pass] = []
        for parts in passes.over(batches):
            go_on()
            found += parts
            self.progress.step()
        return found, passes.answers(found)

    def _read_documents(self, out: Path) -> dict[str, object]:
        halving = Halving()
        with self._model:
            self.sample.read_documents(self.checkpoint, self.batch_tokens, halving)
        _write_drawn(out, self.sample.documents, np.arange(len(self.documents)))
        return {"halvings": halving.count}

    @property
    def _width(self) -> int:
        """Neurons of all sites together."""
        return sum(site_width(self.checkpoint.config, site) for site in self.sites)

    def _rows(self, shard: int) -> Ints:
        return np.concatenate([rows for _, _, rows in self.shards[shard]])

    def assemble(self, parts: Mapping[str, Path], out: Path) -> dict[str, object]:
        """Make the artifact of its parts.

        Returns:
            Facts for the manifest.
        """
        folders = [parts[name] for name in self.names]
        for shard, folder in enumerate(folders[: len(self.shards)]):
            if self.stored.keeps_rows:
                link_files(folder, [shard_path(Path(), site, shard) for site in self.sites], out)
            _read_drawn(folder, self.sample.rows, self._rows(shard), self.sites)
        for site in () if self.stored.keeps_rows else self.sites:
            together = Summary({}, {})
            for folder in folders[: len(self.shards)]:
                together = together.merge(read_summary(folder / f"site={site}"))
            write_summary(out / f"site={site}", together)
        if self.documents:
            _read_drawn(folders[-1], self.sample.documents, np.arange(len(self.documents)), self.sites)
        table = pa.concat_tables(read_table(folder / ROWS) for folder in folders[: len(self.shards)])
        write_table(out / ROWS, table)
        write_ordinary(out, self.sample.ordinary())
        model = self.checkpoint.model
        lengths = [len(ids) for ids in self.encoded]
        members = [rows for own in self.batches.values() for rows in own]
        return {
            "rows": len(self.dataset),
            "keep_rows": self.stored.keeps_rows,
            "notes": [
                *self.checkpoint.doubts,
                *doubts(model),
                *([self.stored.sentence] if self.stored.sentence else []),
            ],
            "shards": len(self.shards),
            "batches": len(members),
            "batch_tokens": self.batch_tokens,
            "halvings": sum(read_manifest(folder)["facts"]["halvings"] for folder in folders),
            "sites": {str(site): resolve(model, site).path for site in self.sites},
            "widths": {str(site): site_width(self.checkpoint.config, site) for site in self.sites},
            "spare_documents": len(self.documents),
            "pooling": resolve_pooling(self.config.extract.pooling, self.checkpoint.config),
            "prompt": self.encoder.prompt,
            "tokens": sum(lengths),
            "padding_share": round(1 - sum(lengths) / sum(len(rows) * lengths[int(rows[-1])] for rows in members), 6),
            "cut_rows": sum(length == self.encoder.max_tokens for length in lengths),
            "accuracy": float(np.mean(table["correct"].to_numpy(zero_copy_only=False))),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": device_of(self.checkpoint),
        }


def _slots(part: Activations, shard: int, first: int) -> pa.Table:
    """The rows of a part as rows.parquet has them.

    Args:
        first: place of the first of them in the shard.
    """
    names = ("row", "position", "tokens", "predicted", "correct", "confidence")
    columns = {name: getattr(part, name) for name in names}
    return rows_table(columns | {"shard": np.full(len(part), shard), "slot": np.arange(first, first + len(part))})


def _drawn_path(folder: Path, site: Site) -> Path:
    return folder / "drawn" / f"site={site}.parquet"


def _write_drawn(folder: Path, drawn: DrawnTokens, rows: Ints) -> None:
    """What passes over some texts found at the tokens that were drawn from them."""
    for site, values in drawn.found(rows).items():
        if len(values):
            write_shard(_drawn_path(folder, site), values.T)


def _read_drawn(folder: Path, drawn: DrawnTokens, rows: Ints, sites: Sequence[Site]) -> None:
    if _drawn_path(folder, sites[0]).exists():
        drawn.store(rows, {site: read_shard(_drawn_path(folder, site)).T for site in sites})


def assemble(
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
