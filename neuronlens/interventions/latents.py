"""Edits of the latents of a sparse autoencoder.

An edit of latents is an edit of the activations that they are of: what the autoencoder does not reconstruct of these stays as it was, so an
edit that changes no latent changes nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from neuronlens.autoencoder import Autoencoder, autoencoder_at
from neuronlens.interventions.kinds import AnyEdit, Edit, Intervention, Joint
from neuronlens.sites import Site
from neuronlens.values import Pooling, Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LatentEdit:
    """Decodes what an edit makes of latents, and adds the difference.

    Attributes:
        item: of all latents of the site.
        autoencoder: of the site.
        own: the same edit of the latents that it looks at alone, where each is computed for itself.
        part: of the autoencoder, that has these.
    """

    item: Edit
    autoencoder: Autoencoder
    own: Edit
    part: Autoencoder

    @classmethod
    def of(cls, item: Edit, autoencoder: Autoencoder) -> LatentEdit:
        """The edit of activations that an edit of latents is."""
        if isinstance(item, Intervention) and autoencoder.separate:
            own = replace(item, neurons=torch.arange(item.width, device=item.neurons.device))
            return cls(item, autoencoder, own, autoencoder.only(item.neurons.to(autoencoder.encoder.device)))
        return cls(item, autoencoder, item, autoencoder)

    @property
    def site(self) -> Site:
        """Where the activations are that it changes."""
        return self.item.site.below

    @property
    def positions(self) -> Positions:
        """Which tokens."""
        return self.item.positions

    @property
    def pooling(self) -> Pooling:
        """What `pooled` means."""
        return self.item.pooling

    @property
    def width(self) -> int:
        """How many latents are looked at."""
        return self.item.width

    def to(self, device: torch.device | str) -> LatentEdit:
        """The same edit with its tensors on a device."""
        return LatentEdit(self.item.to(device), self.autoencoder.to(device), self.own.to(device), self.part.to(device))

    def idle(self) -> LatentEdit:
        """The same that never changes anything."""
        return replace(self, item=self.item.idle(), own=self.own.idle())

    @property
    def extent(self) -> Hashable:
        """Of the edit of the latents."""
        return self.autoencoder.fingerprint, self.item.extent

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit activations.

        Args:
            hidden: [B, T, D]; not changed.
            tokens: [B, T] bool, where the edit may act.

        Returns:
            [B, T, D] in the dtype of `hidden`, and [B, T, K] bool: which latents were changed.
        """
        latents = self.part.encode(hidden)
        edited, changed = self.own.apply(latents, tokens)
        return self.part.change(hidden, latents, edited), changed

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, K] bool, which latents `apply` would change."""
        return self.own.changed(self.part.encode(hidden), tokens)


@dataclass(frozen=True)
class Reconstruction:
    """Puts what an autoencoder reconstructs in the place of activations: what working with its latents alone would cost.

    Attributes:
        latents: their site.
        autoencoder: of the site.
        acts: whether it does.
    """

    latents: Site
    autoencoder: Autoencoder
    positions: Positions = "all"
    pooling: Pooling = "auto"
    acts: bool = True

    @property
    def site(self) -> Site:
        """Where the activations are that it changes."""
        return self.latents.below

    @property
    def width(self) -> int:
        """All coordinates of a token."""
        return self.autoencoder.width

    def to(self, device: torch.device | str) -> Reconstruction:
        """The same edit with its tensors on a device."""
        return replace(self, autoencoder=self.autoencoder.to(device))

    def idle(self) -> Reconstruction:
        """The same hook that leaves everything as it is."""
        return replace(self, acts=False)

    @property
    def extent(self) -> Hashable:
        """Autoencoder and tokens."""
        return self.latents, self.autoencoder.fingerprint, self.positions, self.pooling, self.acts

    def apply(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments and results as of `Intervention.apply`. Every coordinate of a token counts as changed."""
        changed = self.changed(hidden, tokens)
        back = self.autoencoder.decode(self.autoencoder.encode(hidden), hidden).to(hidden.dtype)
        return torch.where(changed, back, hidden), changed

    def changed(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, D] bool, what `apply` would change."""
        return (tokens & self.acts)[..., None].expand_as(hidden)


def on_activations(model: PreTrainedModel, items: Iterable[AnyEdit]) -> list[AnyEdit]:
    """Edits in their order, those of latents as edits of the activations that these are of.

    Args:
        model: whose checkpoint was opened with its autoencoders.

    Raises:
        SiteError: an edit is of latents, and the model has no autoencoder there.
    """
    return [_on_activations(model, item) for item in items]


def _on_activations(model: PreTrainedModel, item: AnyEdit) -> AnyEdit:
    if isinstance(item, Joint):
        return Joint(tuple(_single(model, part) for part in item.items))
    return _single(model, item)


def _single(model: PreTrainedModel, item: Edit) -> Edit:
    if not item.site.is_latent:
        return item
    return LatentEdit.of(item, autoencoder_at(model.config, str(item.site.below)).to(model.device))
