"""Predictions: the tokens of a batch of documents that another token follows, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuronlens.activations.batching import Batch


@dataclass(frozen=True)
class Predictions:
    """P real tokens, each with a real token behind it.

    Attributes:
        where: [B, T] bool.
        following: [P] the token behind each.
        documents: [P] row of each.
    """

    where: torch.Tensor
    following: torch.Tensor
    documents: torch.Tensor

    @classmethod
    def of(cls, batch: Batch) -> Predictions:
        """Those of a batch, padded on either side."""
        real = batch.attention_mask.bool()
        where = real & torch.nn.functional.pad(real[:, 1:], (0, 1))
        return cls(where, batch.input_ids.roll(-1, dims=1)[where], where.nonzero()[:, 0])

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """[P, ...] of [B, T, ...]."""
        return values[self.where.to(values.device)]

    def per_document(self, losses: torch.Tensor) -> torch.Tensor:
        """[B] float64 sums of losses [P]."""
        sums = torch.zeros(len(self.where), dtype=torch.float64, device=losses.device)
        return sums.index_add(0, self.documents.to(losses.device), losses.double())
