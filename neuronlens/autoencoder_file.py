"""The files of sparse autoencoders, as SAELens (`cfg.json` and `sae_weights.safetensors`) and sparsify (`cfg.json` and `sae.safetensors`)
write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from neuronlens.artifact import hash_files, read_json
from neuronlens.autoencoder import Activation, Autoencoder, Norm
from neuronlens.errors import ArtifactError, CheckpointError, did_you_mean

if TYPE_CHECKING:
    import torch

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

# fingerprint -> an autoencoder that somebody holds: each stage of an audit opens its checkpoint, and none reads the weights again
_loaded: WeakValueDictionary[str, Autoencoder] = WeakValueDictionary()


def load_autoencoder(path: Path | str) -> Autoencoder:
    """The autoencoder in a folder.

    Raises:
        CheckpointError: it holds none, or one of a kind that is not known, or tensors that do not fit together.
    """
    folder, weights, config = _opened(path)
    place, fingerprint = identify_autoencoder(folder)
    held = _loaded.get(fingerprint)
    if held is not None and held.place == place:
        return held
    reader = _Reader(folder / weights, config)
    made = reader.saelens() if weights == _SAELENS else reader.sparsify()
    _loaded[fingerprint] = found = replace(made, fingerprint=fingerprint, place=place)
    return found


def identify_autoencoder(path: Path | str) -> tuple[str | None, str]:
    """Place and fingerprint of the autoencoder in a folder, without reading its weights as numbers.

    Raises:
        CheckpointError: it holds none.
    """
    folder, weights, config = _opened(path)
    told = config.get("metadata")
    hook = {**config, **(told if isinstance(told, dict) else {})}.get("hook_name")
    return place_of(folder.name if weights == _SPARSIFY else str(hook)), hash_files(folder, [_CONFIG, weights])


def autoencoders_named(sae: str | Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name of a site -> folder and fingerprint of the autoencoder there, as it was told or as the autoencoder itself says.

    Args:
        sae: `checkpoint.sae`: a folder, or site -> folder.

    Raises:
        CheckpointError: a folder holds none, or one that does not say what it was trained on.
    """
    if not isinstance(sae, str):
        return {site: (path, identify_autoencoder(path)[1]) for site, path in sorted(sae.items())}
    place, fingerprint = identify_autoencoder(sae)
    if place is None:
        raise CheckpointError(
            "does not say which site it was trained on",
            where=sae,
            cure=f"Say so: checkpoint.sae: {{resid_post.3: {sae}}}.",
        )
    return {place: (sae, fingerprint)}


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
