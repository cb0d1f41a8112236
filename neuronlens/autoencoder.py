"""Sparse autoencoders: what a site says in latents, and what a change of latents is at the site.

Read as SAELens (`cfg.json` and `sae_weights.safetensors`) and sparsify (`cfg.json` and `sae.safetensors`) write them. Latents are computed
in float32 whatever the model's dtype.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuronlens.artifact import hash_files, read_json
from neuronlens.beside import Beside
from neuronlens.errors import ArtifactError, CheckpointError, SiteError, did_you_mean

if TYPE_CHECKING:
    import torch

Activation = Literal["relu", "jumprelu", "gated", "topk", "groupmax"]
Norm = Literal["none", "constant_norm_rescale", "layer_norm"]

_CONFIG = "cfg.json"
_SAELENS, _SPARSIFY = "sae_weights.safetensors", "sae.safetensors"
_ARCHITECTURES: Mapping[str, Activation] = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",  # which learns a threshold to be run with
    "matryoshka_batchtopk": "jumprelu",
    "gated": "gated",
    "topk": "topk",
}
_EPS = 1e-5  # of SAELens's layer_norm, which adds it to the std

# hook names of TransformerLens, as SAELens keeps them, and module paths of Hugging Face models, as sparsify does
_PLACES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:^|\.)blocks\.(\d+)\.hook_resid_post$"), "resid_post"),
    (re.compile(r"(?:^|\.)blocks\.(\d+)\.hook_mlp_out$"), "mlp_out"),
    (re.compile(r"(?:^|\.)blocks\.(\d+)\.hook_attn_out$"), "attn_out"),
    (re.compile(r"(?:^|\.)blocks\.(\d+)\.mlp\.hook_post$"), "mlp_post"),
    (re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)$"), "resid_post"),
    (re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.mlp$"), "mlp_out"),
    (re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.(?:self_attn|attn|attention)$"), "attn_out"),
)
_BEFORE = re.compile(r"(?:^|\.)blocks\.(\d+)\.hook_resid_pre$")


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

    @classmethod
    def load(cls, path: Path | str) -> Autoencoder:
        """The autoencoder in a folder.

        Raises:
            CheckpointError: it holds none, or one of a kind that is not known, or tensors that do not fit together.
        """
        folder, weights, config = _opened(path)
        reader = _Reader(folder / weights, config)
        made = reader.saelens() if weights == _SAELENS else reader.sparsify()
        place, fingerprint = identify_autoencoder(folder)
        return replace(made, fingerprint=fingerprint, place=place)

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


def identify_autoencoder(path: Path | str) -> tuple[str | None, str]:
    """Place and fingerprint of the autoencoder in a folder, without reading its weights as numbers.

    Raises:
        CheckpointError: it holds none.
    """
    folder, weights, config = _opened(path)
    told = config.get("metadata")
    hook = {**config, **(told if isinstance(told, dict) else {})}.get("hook_name")
    return place_of(folder.name if weights == _SPARSIFY else str(hook)), hash_files(folder, [_CONFIG, weights])


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


def place_of(name: str) -> str | None:
    """The site that a hook name of TransformerLens or a module path of a Hugging Face model stands for; None for any other."""
    before = _BEFORE.search(name)
    if before is not None:  # what a block is given is what the one before it gives
        return f"resid_post.{int(before[1]) - 1}" if int(before[1]) else None
    return next(
        (f"{component}.{int(found[1])}" for pattern, component in _PLACES if (found := pattern.search(name))), None
    )


class _Reader:
    """Tensors of a file, checked as they are taken."""

    def __init__(self, file: Path, config: Mapping[str, Any]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.file, self.config = file, config
        try:
            self.tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise self._error(f"cannot be read ({error})", "Copy the folder again.") from error

    def saelens(self) -> Autoencoder:
        """As SAELens writes it."""
        name = str(self.config.get("architecture", "standard"))
        if name not in _ARCHITECTURES:
            raise self._error(f"is of an unknown architecture {name!r}", did_you_mean(name, _ARCHITECTURES))
        activation = _ARCHITECTURES[name]
        if name == "standard" and str(self.config.get("activation_fn", "relu")) != "relu":
            activation = self._old_activation()
        encoder = self._matrix("W_enc", None)
        width, latents = encoder.shape
        decoder, decoder_bias = self._matrix("W_dec", (latents, width)), self._vector("b_dec", width)
        gated = activation == "gated"
        scale = None
        if activation == "topk" and self.config.get("rescale_acts_by_decoder_norm"):
            scale = decoder.norm(dim=-1)
        return Autoencoder(
            "",
            None,
            encoder,
            self._vector("b_mag" if gated else "b_enc", latents),
            decoder,
            decoder_bias,
            bool(self.config.get("apply_b_dec_to_input", True)),
            activation,
            self._active(latents) if activation == "topk" else 0,
            self._vector("threshold", latents) if activation == "jumprelu" else None,
            self._vector("b_gate", latents) if gated else None,
            self._vector("r_mag", latents) if gated else None,
            scale,
            self._norm(),
        )

    def sparsify(self) -> Autoencoder:
        """As sparsify writes it."""
        for name in ("transcode", "skip_connection"):
            if self.config.get(name):
                raise self._error(
                    f"is a transcoder ({name}), which reconstructs something else than what it reads",
                    "Name an autoencoder.",
                )
        activation = str(self.config.get("activation", "topk"))
        if activation not in ("topk", "groupmax"):
            raise self._error(
                f"has an unknown activation {activation!r}", did_you_mean(activation, ("topk", "groupmax"))
            )
        weight = self._matrix("encoder.weight", None)
        latents, width = weight.shape
        active = self._active(latents)
        if activation == "groupmax" and latents % active:
            raise self._error(f"has {latents} latents in {active} groups of no equal size", "Copy the folder again.")
        return Autoencoder(
            "",
            None,
            weight.T.contiguous(),
            self._vector("encoder.bias", latents),
            self._matrix("W_dec", (latents, width)),
            self._vector("b_dec", width),
            centred=True,
            activation="topk" if activation == "topk" else "groupmax",
            active=active,
        )

    def _old_activation(self) -> Activation:
        """Of configurations from before architectures were told apart."""
        name = str(self.config.get("activation_fn") or self.config.get("activation_fn_str"))
        if name not in ("topk", "relu"):
            raise self._error(f"has an unknown activation {name!r}", did_you_mean(name, ("topk", "relu")))
        return "topk" if name == "topk" else "relu"

    def _norm(self) -> Norm:
        name = self.config.get("normalize_activations", "none")
        if name in (None, False, "none"):
            return "none"
        if name == "constant_norm_rescale":
            return "constant_norm_rescale"
        if name == "layer_norm":
            return "layer_norm"
        raise self._error(
            f"takes activations in units of its own ({name!r})",
            "Fold the scale into its weights first: SAELens's fold_activation_norm_scaling_factor does.",
        )

    def _active(self, latents: int) -> int:
        options = self.config.get("activation_fn_kwargs")
        k = self.config.get("k", options.get("k") if isinstance(options, dict) else None)
        if not isinstance(k, int) or isinstance(k, bool) or not 0 < k <= latents:
            raise self._error(f"has no k between 1 and {latents}, but {k!r}", "Copy the folder again.")
        return k

    def _matrix(self, name: str, shape: tuple[int, int] | None) -> torch.Tensor:
        return self._take(name, 2, shape)

    def _vector(self, name: str, length: int) -> torch.Tensor:
        return self._take(name, 1, (length,))

    def _take(self, name: str, dims: int, shape: tuple[int, ...] | None) -> torch.Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self._error(f"has no tensor {name}", did_you_mean(name, self.tensors))
        if tensor.dim() != dims or 0 in tensor.shape or (shape is not None and tuple(tensor.shape) != shape):
            raise self._error(f"{name} has shape {list(tensor.shape)}, and not {list(shape or ('D', 'M'))}", None)
        if not tensor.isfinite().all():
            raise self._error(f"{name} holds NaN or infinite numbers", "Copy the folder again.")
        return tensor

    def _error(self, what: str, cure: str | None) -> CheckpointError:
        return CheckpointError(what, where=str(self.file), cure=cure)


def _opened(path: Path | str) -> tuple[Path, str, dict[str, Any]]:
    """The folder, the name of the file with the weights, and the configuration."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            "no such folder", where=str(path), cure="Name the folder that holds cfg.json and the weights."
        )
    weights = next((name for name in (_SAELENS, _SPARSIFY) if (folder / name).is_file()), None)
    if weights is None or not (folder / _CONFIG).is_file():
        raise CheckpointError(
            f"holds no sparse autoencoder: {_CONFIG} and {_SAELENS} (SAELens) or {_SPARSIFY} (sparsify)",
            where=str(path),
            cure=_nearest(folder),
        )
    try:
        config = read_json(folder / _CONFIG)
    except ArtifactError as error:
        raise CheckpointError("is no JSON", where=str(folder / _CONFIG), cure="Copy the folder again.") from error
    if not isinstance(config, dict):
        raise CheckpointError("is no JSON object", where=str(folder / _CONFIG), cure="Copy the folder again.")
    return folder, weights, config


def _nearest(folder: Path) -> str:
    inner = sorted(path.parent.name for path in folder.glob(f"*/{_CONFIG}"))
    return f"Name one of the folders in it, such as {folder / inner[0]}." if inner else "Name the folder of one."
