"""Sparse autoencoders: what a site says in latents, and what a change of latents is at the site.

Latents are computed in float32 whatever the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from neuronlens.beside import Beside
from neuronlens.errors import SiteError, did_you_mean

if TYPE_CHECKING:
    import torch

Activation = Literal["relu", "jumprelu", "gated", "topk", "groupmax"]
Norm = Literal["none", "constant_norm_rescale", "layer_norm"]

_EPS = 1e-5  # of SAELens's layer_norm, which adds it to the std

_autoencoders: Beside[Mapping[str, Autoencoder]] = Beside()


@dataclass(frozen=True)
class Autoencoder:
    """A sparse autoencoder of D numbers with M latents.

    Attributes:
        fingerprint: sha256 (hex) over its weights and configuration.
        place: name of the site that it was trained on, such as `resid_post.3`, as far as its configuration (SAELens) or the name of its
            folder (sparsify) says so; else None.
        encoder: [D, M].
        bias: [M] of the encoder; of `gated` of its magnitudes.
        decoder: [M, D].
        decoder_bias: [D].
        centred: whether the decoder's bias is taken from what is encoded.
        activation: what makes latents of what the encoder gives.
        active: of `topk` how many latents are active, of `groupmax` in how many groups one is.
        threshold: [M] of `jumprelu`: what is not above it is 0.
        gate_bias, magnitude: [M] each, of `gated`: what opens the gate, and the log of what scales the encoder behind it.
        scale: [M] that latents are divided by before they are decoded; None for none.
        norm: what activations go through before, and reconstructions come back through.
    """

    fingerprint: str
    place: str | None
    encoder: torch.Tensor
    bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    centred: bool
    activation: Activation
    active: int = 0
    threshold: torch.Tensor | None = None
    gate_bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    norm: Norm = "none"

    @property
    def latents(self) -> int:
        """M."""
        return int(self.encoder.shape[1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.encoder.shape[0])

    def to(self, device: torch.device | str) -> Autoencoder:
        """The same on a device."""
        tensors: dict[str, Any] = {
            name: part.to(device) for name, part in vars(self).items() if hasattr(part, "device")
        }
        return replace(self, **tensors)

    def only(self, latents: torch.Tensor) -> Autoencoder:
        """Of some latents alone, where they do not depend on the others; the same where they do.

        Args:
            latents: [K] which.
        """
        if not self.separate:
            return self
        columns: dict[str, Any] = {
            name: part[latents]
            for name in ("bias", "decoder", "threshold", "gate_bias", "magnitude")
            if (part := getattr(self, name)) is not None
        }
        return replace(self, encoder=self.encoder[:, latents], **columns)

    @property
    def separate(self) -> bool:
        """Whether each latent is computed for itself, without looking which others are active."""
        return self.activation in ("relu", "jumprelu", "gated")

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., M] float32 latents of activations [..., D]."""
        import torch

        shifted = self._normed(hidden.float())[0] - (self.decoder_bias if self.centred else 0.0)
        before = shifted @ self.encoder
        if self.gate_bias is not None and self.magnitude is not None:
            magnitudes = torch.relu(before * self.magnitude.exp() + self.bias)
            return torch.where(before + self.gate_bias > 0, magnitudes, 0.0)
        before = before + self.bias
        if self.scale is not None:
            before = before * self.scale
        positive = torch.relu(before)
        if self.threshold is not None:
            return torch.where(before > self.threshold, positive, 0.0)
        if self.activation == "topk":
            values, places = positive.topk(self.active, dim=-1)
            return torch.zeros_like(positive).scatter(-1, places, values)
        if self.activation == "groupmax":
            grouped = positive.unflatten(-1, (self.active, -1))
            values, places = grouped.max(dim=-1, keepdim=True)
            return torch.zeros_like(grouped).scatter(-1, places, values).flatten(-2)
        return positive

    def decode(self, latents: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """[..., D] float32, the reconstruction.

        Args:
            latents: [..., M].
            hidden: [..., D] activations that they are of: what took their norm away gives it back.
        """
        _, factor, shift = self._normed(hidden.float())
        found: torch.Tensor = (self._unscaled(latents) @ self.decoder + self.decoder_bias) * factor + shift
        return found

    def change(self, hidden: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """[..., D] in the dtype of `hidden`: activations whose latents are others, with what the autoencoder does not reconstruct kept.

        decode(after) + (hidden - decode(before)); tokens whose latents are the same stay the same to the last bit.

        Args:
            before, after: [..., M] latents of `hidden`, and what they become.
        """
        import torch

        moved = (after != before).any(dim=-1, keepdim=True)
        _, factor, _ = self._normed(hidden.float())
        added = (self._unscaled(after - before) @ self.decoder) * factor
        return torch.where(moved, (hidden.float() + added).to(hidden.dtype), hidden)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return latents if self.scale is None else latents / self.scale

    def _normed(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float, torch.Tensor | float]:
        """What is encoded, and factor and shift that lead back to it."""
        if self.norm == "constant_norm_rescale":
            factor = hidden.norm(dim=-1, keepdim=True) / math.sqrt(self.width)
            return hidden / factor, factor, 0.0
        if self.norm == "layer_norm":
            mean = hidden.mean(dim=-1, keepdim=True)
            std = (hidden - mean).std(dim=-1, keepdim=True)
            return (hidden - mean) / (std + _EPS), std, mean
        return hidden, 1.0, 0.0


def hold_autoencoders(config: Any, found: Mapping[str, Autoencoder]) -> None:
    """Let a transformers config have autoencoders.

    Args:
        found: name of a site -> its autoencoder.
    """
    _autoencoders.put(config, found)


def autoencoder_at(config: Any, site: str) -> Autoencoder:
    """The autoencoder that a checkpoint was opened with, by its config and the name of a site.

    Raises:
        SiteError: it was opened without one there.
    """
    known = _autoencoders.get(config) or {}
    if site not in known:
        raise SiteError(
            f"site sae_{site}: the checkpoint was opened with no autoencoder at {site}",
            where="extract.sites",
            cure=did_you_mean(site, known) if known else "Name the folder of one in checkpoint.sae.",
        )
    return known[site]
