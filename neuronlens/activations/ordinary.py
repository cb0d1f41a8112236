"""Ordinary tokens: what a site does away from the place where ranges are fitted.

Ranges are fitted on one position of labelled rows and edit every token. Whether they fire on running text can only be known from running
text: auxiliary documents that perplexity is not measured on, and the other positions of the labelled fit rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from neuronlens.activations.batching import Batch, Halving, Ints, iterate, padding_of, token_budget_batches
from neuronlens.activations.capture import capture, on_host
from neuronlens.activations.head import deciding_hidden
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.store import Floats, read_shard, write_shard
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.artifact import read_table, write_table
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import DatasetParams
from neuronlens.dataset import Dataset
from neuronlens.encoding import Encoder, encoder_for, longest_input
from neuronlens.errors import NonFiniteActivationError
from neuronlens.sites import Site, expand_sites, layer_count, site_width
from neuronlens.values import BatchTokens, Pooling

TOKENS = 2048  # of each site; shares of them are known to a percent
TEXTS = 256  # read at most for them


@dataclass(frozen=True)
class Ordinary:
    """Activations of single tokens, which no range should fire on.

    Attributes:
        values: [D, n].
        concept: [n] concept of the labelled row that a token stands in, empty for auxiliary text.
    """

    values: Floats
    concept: Sequence[str]
    _kept: dict[str, Ints] = field(default_factory=dict, repr=False, compare=False)

    def without(self, concept: str, neurons: Ints | slice = slice(None)) -> Floats:
        """[D, m] the tokens that stand in no row of a concept, or [K, m] some neurons of them."""
        # one by one: for NumPy texts are equal that differ in NULs at their end, also in arrays of objects
        if concept not in self._kept:
            self._kept[concept] = np.array([i for i, own in enumerate(self.concept) if own != concept], dtype=np.int64)
        return np.asarray(self.values[neurons].take(self._kept[concept], axis=1))


def looked_into(split: Sequence[str], seed: int) -> tuple[list[int], np.random.Generator]:
    """Places of the fit rows that tokens are drawn from, ascending; and what goes on drawing."""
    generator = np.random.default_rng([seed, 1])
    fit = np.array([i for i, own in enumerate(split) if own == "fit"])
    return np.sort(generator.permutation(fit)[:TEXTS]).tolist(), generator


def collect_ordinary(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sites: Sequence[str] = ("resid_post.last",),
    *,
    documents: Sequence[str] = (),
    pooling: Pooling = "auto",
    batch_tokens: BatchTokens = "auto",
    text: DatasetParams | None = None,
    seed: int = 0,
) -> dict[Site, Ordinary]:
    """A sample of ordinary tokens at some sites.

    Half of them come from documents, or as many as those have; the rest from the fit rows, where the position that stands for a row is left
    out.

    Args:
        sites: such as `resid_post.last`.
        documents: ordinary text; not what perplexity is measured on, or the measurement would flatter.
        pooling: which position stands for a row.
        text: how rows become tokens.
        seed: draws the texts and the tokens.

    Raises:
        NonFiniteActivationError: an activation is NaN or infinite.
        OutOfMemoryError: a single text does not fit.
    """
    params, wanted = text or DatasetParams(), expand_sites(sites, layer_count(checkpoint.config))
    encoder = encoder_for(checkpoint, params)
    encoded: dict[int, list[int]] = {}

    def encode(places: Sequence[int]) -> Sequence[Sequence[int]]:
        encoded.update(zip(places, encoder.encode([dataset.text[i] for i in places]), strict=True))
        return [encoded[i] for i in places]

    sample = OrdinarySample(
        checkpoint,
        dataset,
        wanted,
        encode,
        documents=documents,
        pooling=pooling,
        max_tokens=params.max_tokens,
        seed=seed,
    )
    budget = batch_budget(batch_tokens, checkpoint.model)
    read_tokens(checkpoint, encoded, sample.rows, wanted, budget)
    sample.read_documents(checkpoint, budget)
    return sample.ordinary()


class DrawnTokens:
    """Columns that were drawn from some texts, and what passes over those texts find there.

    Attributes:
        columns: place of a text -> its columns, ascending.
    """

    def __init__(self, columns: Mapping[int, Ints], widths: Mapping[Site, int]) -> None:
        self.columns = {place: own for place, own in columns.items() if len(own)}
        lengths = [len(own) for own in self.columns.values()]
        self._start = dict(zip(self.columns, np.cumsum([0, *lengths])[:-1].tolist(), strict=True))
        self._values = {site: np.empty((sum(lengths), width), dtype=np.float32) for site, width in widths.items()}

    def places(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor] | None:
        """[n] row of the batch and [n] column of every token drawn from the texts of a batch; None where there are none.

        Args:
            rows: [B] place of each text.
        """
        own = [(slot, self.columns[int(row)]) for slot, row in enumerate(rows) if int(row) in self.columns]
        if not own:
            return None
        slots = np.repeat([slot for slot, _ in own], [len(columns) for _, columns in own])
        return torch.from_numpy(slots), torch.from_numpy(np.concatenate([columns for _, columns in own]))

    def store(self, rows: Ints, found: Mapping[Site, Floats]) -> None:
        """Take what a pass found at `places(rows)`, [n, D] per site.

        Raises:
            NonFiniteActivationError: an activation is NaN or infinite.
        """
        texts = [int(row) for row in rows if int(row) in self.columns]
        slots = np.concatenate([self._slots(text) for text in texts])
        for site, values in found.items():
            if not np.isfinite(values).all():
                raise NonFiniteActivationError(
                    f"site {site}: the activation of a token of ordinary text is not finite; "
                    "try checkpoint.dtype=float32, and check the weights"
                )
            self._values[site][slots] = values

    def found(self, rows: Ints) -> dict[Site, Floats]:
        """[n, D] per site of what `store` took of some texts, in their order."""
        texts = [int(row) for row in rows if int(row) in self.columns]
        slots = np.array([slot for text in texts for slot in self._slots(text)], dtype=np.int64)
        return {site: values[slots] for site, values in self._values.items()}

    def _slots(self, text: int) -> range:
        return range(self._start[text], self._start[text] + len(self.columns[text]))

    def values(self, site: Site) -> Floats:
        """[n, D] in the order of the texts."""
        return self._values[site]


class OrdinarySample:
    """Which ordinary tokens are read, and what was found there.

    Attributes:
        rows: of fit rows, by their place in the dataset. Any pass over those rows may fill them.
        documents: of the documents, by their number.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dataset: Dataset,
        sites: Sequence[Site],
        encode: Callable[[Sequence[int]], Sequence[Sequence[int]]],
        *,
        documents: Sequence[str],
        pooling: Pooling,
        max_tokens: int,
        seed: int,
    ) -> None:
        """Draw the tokens.

        Args:
            encode: token ids of the rows at some places of the dataset.
            documents, pooling, seed: see `collect_ordinary`.
            max_tokens: length that a document is cut to.
        """
        places, generator = looked_into(dataset.split, seed)
        how = resolve_pooling(pooling, checkpoint.config)
        own = [_besides(len(ids), how) for ids in encode(places)]
        bare = Encoder(checkpoint.tokenizer, min(max_tokens, longest_input(checkpoint)))
        self._encoded = dict(enumerate(bare.encode(documents[:TEXTS]) if documents else []))
        drawn = _sample(own, [np.arange(len(ids)) for ids in self._encoded.values()], generator)
        self._sites = {site: site_width(checkpoint.config, site) for site in sites}
        self.rows = DrawnTokens(dict(zip(places, drawn, strict=False)), self._sites)
        self.documents = DrawnTokens(dict(enumerate(drawn[len(places) :])), self._sites)
        concepts = [*(dataset.concept[i] for i in places), *([""] * len(self._encoded))]
        self._concept = [concept for concept, columns in zip(concepts, drawn, strict=True) for _ in columns]

    def read_documents(self, checkpoint: Checkpoint, batch_tokens: int, halving: Halving | None = None) -> None:
        """Run the documents, which are no rows and in no other pass."""
        read_tokens(checkpoint, self._encoded, self.documents, [*self._sites], batch_tokens, halving)

    def ordinary(self) -> dict[Site, Ordinary]:
        """What was found, the rows' tokens before the documents'."""
        return {
            site: Ordinary(
                np.concatenate([self.rows.values(site), self.documents.values(site)]).T.copy(order="C"), self._concept
            )
            for site in self._sites
        }


def read_tokens(
    checkpoint: Checkpoint,
    encoded: Mapping[int, Sequence[int]],
    drawn: DrawnTokens,
    sites: Sequence[Site],
    batch_tokens: int,
    halving: Halving | None = None,
) -> None:
    """Run the texts that tokens were drawn from, and nothing else of them.

    Args:
        encoded: place of a text -> its token ids.
        batch_tokens: tokens of a batch, padding included.
    """
    model, halving = checkpoint.model, halving or Halving()
    places = np.array([*drawn.columns], dtype=np.int64)
    texts = [encoded[place] for place in drawn.columns]
    with torch.inference_mode(), capture(model, sites) as captured:

        def run(batch: Batch) -> dict[Site, Floats]:
            captured.wanted = drawn.places(places[batch.rows])
            deciding_hidden(model, batch)
            return on_host(captured.tokens)

        packed = token_budget_batches([len(ids) for ids in texts], batch_tokens)
        for batch in iterate(texts, packed, pad_id=padding_of(checkpoint), device=model.device):
            for part, found in halving.run(batch, run):
                drawn.store(places[part.rows], found)


def write_ordinary(folder: Path, found: Mapping[Site, Ordinary]) -> None:
    """The artifacts ordinary/site=SITE.parquet (tiles) and ordinary/tokens.parquet (concept of each slot)."""
    for site, part in found.items():
        write_shard(_path(folder, site), part.values)
    concept = next(iter(found.values())).concept
    write_table(
        folder / "ordinary" / "tokens.parquet",
        pa.table({"slot": np.arange(len(concept), dtype=np.int32), "concept": pa.array(concept, pa.string())}),
    )


def read_ordinary(folder: Path, site: Site) -> Ordinary:
    """What `write_ordinary` wrote of a site."""
    concept = read_table(folder / "ordinary" / "tokens.parquet", ["concept"])["concept"].to_pylist()
    return Ordinary(read_shard(_path(folder, site)), concept)


def _path(folder: Path, site: Site) -> Path:
    return folder / "ordinary" / f"site={site}.parquet"


def _besides(length: int, pooling: Pooling) -> Ints:
    """Columns of a row that do not stand for it. With mean and max pooling no single token does."""
    columns = np.arange(length)
    return {"first": columns[1:], "last": columns[:-1]}.get(pooling, columns)


def _sample(rows: Sequence[Ints], documents: Sequence[Ints], generator: np.random.Generator) -> list[Ints]:
    """Which columns of each text are read."""
    total = sum(len(columns) for columns in documents)
    share = min(TOKENS // 2, total)
    return [*_draw(rows, TOKENS - share, generator), *_draw(documents, share, generator)]


def _draw(texts: Sequence[Ints], count: int, generator: np.random.Generator) -> list[Ints]:
    """Up to `count` columns drawn from all texts together, each text's in order."""
    edges = np.cumsum([0, *(len(columns) for columns in texts)])
    drawn = np.sort(generator.permutation(int(edges[-1]))[:count])
    places = np.searchsorted(drawn, edges)
    return [
        columns[drawn[start:end] - edge]
        for columns, start, end, edge in zip(texts, places[:-1], places[1:], edges[:-1], strict=True)
    ]
