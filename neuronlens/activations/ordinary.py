"""Ordinary tokens: what a site does away from the place where ranges are fitted.

Ranges are fitted on one position of labelled rows and edit every token. Whether they fire on running text can only be known from running
text: auxiliary documents that perplexity is not measured on, and the other positions of the labelled fit rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from neuronlens.activations.batching import Ints, iterate, pad_id_of, token_budget_batches
from neuronlens.activations.capture import attach
from neuronlens.activations.readout import deciding_logits
from neuronlens.activations.store import Floats, read_shard, write_shard
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.artifact import read_table, write_table
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import DatasetParams, Pooling
from neuronlens.dataset import Dataset
from neuronlens.encoding import Encoder, encoder_for, longest_input
from neuronlens.errors import NeuronLensError, NonFiniteActivationError
from neuronlens.sites import Site, expand_sites, layer_count, resolve, site_width

TOKENS = 2048  # of each site; shares of them are known to a percent
_TEXTS = 256  # read at most for them


@dataclass(frozen=True)
class Ordinary:
    """Activations of single tokens, which no range should fire on.

    Attributes:
        values: [D, n].
        concept: [n] concept of the labelled row that a token stands in, empty for auxiliary text.
    """

    values: Floats
    concept: npt.NDArray[np.str_]

    def without(self, concept: str) -> Floats:
        """[D, m] the tokens that stand in no row of a concept."""
        return self.values[:, self.concept != concept]


def collect_ordinary(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sites: Sequence[str] = ("resid_post.last",),
    *,
    documents: Sequence[str] = (),
    pooling: Pooling = "auto",
    batch_tokens: int = 8192,
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
    """
    params = text or DatasetParams()
    generator = np.random.default_rng([seed, 1])
    rows = np.array([i for i, split in enumerate(dataset.split) if split == "fit"])
    rows = np.sort(generator.permutation(rows)[:_TEXTS])
    bare = Encoder(checkpoint.tokenizer, min(params.max_tokens, longest_input(checkpoint)))
    auxiliary = bare.encode(documents[:_TEXTS]) if documents else []
    encoded = [*encoder_for(checkpoint, params).encode([dataset.text[i] for i in rows]), *auxiliary]
    how = resolve_pooling(pooling, checkpoint.config.model_type)
    own = [_besides(len(ids), how) for ids in encoded[: len(rows)]]
    places = _sample(own, [np.arange(len(ids)) for ids in auxiliary], generator)
    wanted = expand_sites(sites, layer_count(checkpoint.config))
    values = _read(checkpoint, encoded, places, wanted, batch_tokens)
    concepts = [*(dataset.concept[i] for i in rows), *([""] * len(auxiliary))]
    concept = np.repeat(np.array(concepts, dtype=np.str_), [len(found) for found in places])
    return {site: Ordinary(found, concept) for site, found in values.items()}


def write_ordinary(folder: Path, found: Mapping[Site, Ordinary]) -> None:
    """The artifacts ordinary/site=SITE.parquet (tiles) and ordinary/tokens.parquet (concept of each slot)."""
    for site, part in found.items():
        write_shard(_path(folder, site), part.values)
    concept = next(iter(found.values())).concept
    write_table(
        folder / "ordinary" / "tokens.parquet",
        pa.table({"slot": np.arange(len(concept), dtype=np.int32), "concept": pa.array(concept.tolist(), pa.string())}),
    )


def read_ordinary(folder: Path, site: Site) -> Ordinary:
    """What `write_ordinary` wrote of a site."""
    concept = read_table(folder / "ordinary" / "tokens.parquet", ["concept"])["concept"].to_pylist()
    return Ordinary(read_shard(_path(folder, site)), np.array(concept, dtype=np.str_))


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


def _read(
    checkpoint: Checkpoint,
    encoded: Sequence[Sequence[int]],
    places: Sequence[Ints],
    sites: Sequence[Site],
    batch_tokens: int,
) -> dict[Site, Floats]:
    """[D, n] per site, tokens in the order of the texts."""
    model = checkpoint.model
    used = [i for i, columns in enumerate(places) if len(columns)]
    if not used:  # rows of a single token, and no text beside them
        return {site: np.empty((site_width(checkpoint.config, site), 0), dtype=np.float32) for site in sites}
    texts = [encoded[i] for i in used]
    found: dict[Site, list[Floats]] = {site: [] for site in sites}
    order: list[int] = []
    with torch.inference_mode():
        for batch in iterate(
            texts,
            token_budget_batches([len(ids) for ids in texts], batch_tokens),
            pad_id=pad_id_of(checkpoint.tokenizer),
            device=model.device,
        ):
            columns = [places[used[int(row)]] for row in batch.rows]
            at = torch.from_numpy(np.repeat(np.arange(len(columns)), [len(part) for part in columns]))
            column = torch.from_numpy(np.concatenate(columns))
            order += [used[int(row)] for row in batch.rows]
            seen: dict[Site, torch.Tensor] = {}
            with contextlib.ExitStack() as stack:
                for site in sites:
                    stack.callback(attach(resolve(model, site), _reader(site, seen, at, column)).remove)
                deciding_logits(model, batch)
            for site in sites:
                if site not in seen:
                    raise NeuronLensError(f"the hook of site {site} did not fire")
                if not bool(seen[site].isfinite().all()):
                    raise NonFiniteActivationError(
                        f"site {site}: the activation of a token of ordinary text is not finite; "
                        "try checkpoint.dtype=float32, and check the weights"
                    )
                found[site].append(seen[site].cpu().numpy())
    lengths = [len(places[i]) for i in order]
    starts = dict(zip(order, np.cumsum([0, *lengths[:-1]]), strict=True))
    slots = np.concatenate([np.arange(starts[i], starts[i] + len(places[i])) for i in used])
    return {site: np.ascontiguousarray(np.concatenate(parts)[slots].T) for site, parts in found.items()}


def _reader(
    site: Site, seen: dict[Site, torch.Tensor], at: torch.Tensor, column: torch.Tensor
) -> Callable[[torch.Tensor], None]:
    def read(hidden: torch.Tensor) -> None:
        seen[site] = hidden[at.to(hidden.device), column.to(hidden.device)].float()

    return read
