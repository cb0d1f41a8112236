"""What an autoencoder's reconstruction costs: the baseline of edits of its latents, which keep what it does not reconstruct."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.batching import Batch
from neuronlens.activations.capture import attach
from neuronlens.activations.head import deciding_hidden
from neuronlens.activations.tokens import TokenTracker
from neuronlens.autoencoder import autoencoder_at
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.text import perplexity_columns
from neuronlens.evaluation.uncertainty import change_of_rate, mean
from neuronlens.interventions.latents import Reconstruction
from neuronlens.sites import Site, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Doubles = npt.NDArray[np.float64]


def reconstructions(model: PreTrainedModel, sites: Sequence[Site]) -> list[Reconstruction]:
    """One for each site of latents, in their order.

    Raises:
        SiteError: the model has no autoencoder there.
    """
    return [Reconstruction(site, autoencoder_at(model.config, str(site.below))) for site in sites if site.is_latent]


@dataclass(frozen=True)
class Quality:
    """How much of the activations of each of S sites is in the latents, in sums over the real tokens of some rows.

    Attributes:
        tokens: how many.
        spread: [S] sum of the squared distances of activations from their mean.
        missed: [S] sum of the squares of what is not reconstructed.
        active: [S] latents that are not 0.
    """

    tokens: int
    spread: Doubles
    missed: Doubles
    active: Doubles

    @property
    def rows(self) -> list[dict[str, float | None]]:
        """Of each site `explained_variance`, 1 - missed / spread (None where all are the same), and `active` latents a token."""
        return [
            {"explained_variance": 1 - missed / spread if spread > 0 else None, "active": active / int(self.tokens)}
            for spread, missed, active in zip(
                *(part.tolist() for part in (self.spread, self.missed, self.active)), strict=True
            )
        ]


class _Sums:
    """Of one site, token by token, in float64."""

    def __init__(self, item: Reconstruction) -> None:
        self.item, self.mean, self.count = item, torch.zeros(item.width, dtype=torch.float64), 0
        self.spread = self.missed = self.active = 0.0

    def add(self, hidden: torch.Tensor) -> None:
        """Take [n, D] activations into account (Chan et al. 1983 for the spread)."""
        autoencoder = self.item.autoencoder.to(hidden.device)
        latents = autoencoder.encode(hidden)
        self.missed += float((hidden.double() - autoencoder.decode(latents, hidden).double()).square().sum())
        self.active += float((latents != 0).sum())
        values = hidden.double().cpu()
        mean, count = values.mean(dim=0), len(values)
        away = mean - self.mean
        self.spread += float((values - mean).square().sum())
        self.spread += float(away.square().sum()) * self.count * count / (self.count + count)
        self.mean += away * (count / (self.count + count))
        self.count += count


def measure_quality(model: PreTrainedModel, items: Sequence[Reconstruction], batches: Iterable[Batch]) -> Quality:
    """Run the unedited model over batches."""
    found = [_Sums(item) for item in items]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        tracker = stack.enter_context(TokenTracker(model))

        def reader(sums: _Sums) -> Callable[[torch.Tensor], None]:
            return lambda hidden: sums.add(hidden[tracker.real.to(hidden.device)])

        for sums in found:
            stack.callback(attach(resolve(model, sums.item.site), reader(sums)).remove)
        for batch in batches:
            deciding_hidden(model, batch)
    columns = (np.array([getattr(sums, name) for sums in found]) for name in ("spread", "missed", "active"))
    return Quality(found[0].count if found else 0, *columns)


def reconstruction_rows(
    items: Sequence[Reconstruction], quality: Quality, scores: RowScores, losses: Losses | None
) -> list[dict[str, Any]]:
    """A row for each: its site and autoencoder, how much of the activations it has, and what its reconstruction costs.

    Args:
        scores: of the test rows under each, in their order.
        losses: of ordinary text likewise; None where there is none.

    Returns:
        `site`, `fingerprint`, `latents`, `explained_variance`, `active`; `accuracy` and `confidence` with what they drop by
        (`accuracy_drop`, `_low`, `_high`: Tango's interval; `confidence_drop`: that of a mean), and the columns of perplexity.
    """
    right, sure = scores.correct, scores.confidence.astype(np.float64)
    lost, gained = (right[0] & ~right[1:]).sum(axis=1), (~right[0] & right[1:]).sum(axis=1)
    drops: Mapping[str, Any] = {
        "accuracy": change_of_rate(lost, gained, right.shape[1]),
        "confidence": mean(sure[0] - sure[1:], limits=(-1, 1)),
    }
    levels = {"accuracy": right.mean(axis=1), "confidence": sure.mean(axis=1)}
    text = perplexity_columns(None if losses is None else (losses.losses, losses.predicted), len(items))
    found = []
    for i, (item, known) in enumerate(zip(items, quality.rows, strict=True)):
        row: dict[str, Any] = {"site": str(item.latents), "fingerprint": item.autoencoder.fingerprint}
        row |= {"latents": item.autoencoder.latents, **known}
        for name, drop in drops.items():
            row |= {name: float(levels[name][i + 1]), f"base_{name}": float(levels[name][0])}
            ends = (f"{name}_drop", f"{name}_drop_low", f"{name}_drop_high")
            row |= {end: float(part[i]) for end, part in zip(ends, drop, strict=True)}
        found.append(row | text[i])
    return found
