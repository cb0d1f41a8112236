"""Checkpoints: a model as Hugging Face saves it, with an identity that depends on its bytes and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from neuronlens.artifact import hash_value
from neuronlens.autoencoder import Autoencoder, hold_autoencoders
from neuronlens.autoencoder_file import autoencoders_named, load_autoencoder
from neuronlens.config import CheckpointParams
from neuronlens.errors import CheckpointError
from neuronlens.families import FAMILIES, Family
from neuronlens.saved import PICKLES, TOKENIZER, fingerprint_of, foreign, identity_files, locate, read_config
from neuronlens.sites import COMPONENTS, Site, family_of, layer_count, site_width
from neuronlens.structure import differences, hold, tell
from neuronlens.weights import default_device, load_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["classifier", "language_model"]


@dataclass(frozen=True)
class Checkpoint:
    """A model and its tokenizer on disk; weights are loaded at first use.

    Attributes:
        path: the folder.
        name: what people call it, safe in a file name.
        fingerprint: sha256 (hex) over the sorted (relative path, size, sha256) of config, weights and tokenizer files; with autoencoders,
            over it and theirs.
        config: the transformers config.
        kind: `classifier` (sequence classification) or `language_model` (causal).
        dtype: dtype the weights are loaded in; `auto` is as stored.
        autoencoders: name of a site -> the sparse autoencoder whose latents are to be had there.
        device_map: `auto` spreads the weights over several devices, None keeps them on one.
    """

    path: Path
    name: str
    fingerprint: str
    config: PretrainedConfig
    kind: Kind
    dtype: str = "auto"
    autoencoders: Mapping[str, Autoencoder] = field(default_factory=dict)
    device_map: str | None = None

    @property
    def family(self) -> Family:
        """Where this model keeps its blocks."""
        return family_of(self.config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer saved with the model.

        Raises:
            CheckpointError: the folder holds no usable tokenizer.
        """
        from transformers import AutoTokenizer

        if not any(path for pattern in TOKENIZER for path in self.path.glob(pattern)):
            raise CheckpointError(
                "holds no tokenizer",
                where=str(self.path),
                cure="Save it beside the weights: tokenizer.save_pretrained(folder).",
            )
        with foreign("the tokenizer cannot be used", self.path, "Save it again: tokenizer.save_pretrained(folder)."):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
            tokenizer("a text")  # some are loaded whatever they hold, and break on the first
        return tokenizer

    @cached_property
    def model(self) -> PreTrainedModel:
        """The stock transformers model in eval mode, on the accelerator where there is one.

        Raises:
            CheckpointError: the weights cannot be read, have other shapes than config.json says, or do not cover the whole model. (Loading
                part of a model would leave the rest random, and an audit of random weights looks like any other.)
        """
        return self._loaded[0]

    @property
    def doubts(self) -> list[str]:
        """What a reader should know of what was loaded: that weights were left out, as those of layers that config.json does not count.

        Raises:
            CheckpointError: as `model` does.
        """
        unused = self._loaded[1]
        if not unused:
            return []
        return [f"the model has no place for {len(unused)} tensors of the weights, {unused[0]} among them"]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, Sequence[str]]:
        """The model, and the names of those tensors of its files that it has no place for."""
        ready, unused = load_weights(
            self.path, classifier=self.kind == "classifier", dtype=self.dtype, device_map=self.device_map
        )
        hold(ready.config, self.family)
        hold_autoencoders(ready.config, self.autoencoders)
        self._refuse_a_wrong_guess(ready)
        return ready, unused

    def _refuse_a_wrong_guess(self, model: PreTrainedModel) -> None:
        if self.family is FAMILIES.get(self.config.model_type):
            return
        for difference in differences(model, self.family):
            if difference.fatal:
                raise CheckpointError(difference.what, where=str(self.path), cure=difference.cure)


def device_of(checkpoint: Checkpoint) -> str:
    """Where a checkpoint is run, in words: bits may depend on it."""
    return (
        default_device() if checkpoint.device_map is None else f"{default_device()}, device_map {checkpoint.device_map}"
    )


def load_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    family: Mapping[str, Any] | None = None,
    sae: str | Mapping[str, str] | None = None,
    device_map: str | None = None,
) -> Checkpoint:
    """Open a checkpoint: a local folder, or a hub id (`owner/name` or `owner/name@revision`) whose safe files are downloaded.

    Args:
        family: where the model keeps its parts, as far as neither docs/models.md nor its structure tells rightly: fields of `Family`.
        sae: folder of a sparse autoencoder that says which site it was trained on, or site -> folder.
        device_map: `auto` spreads the weights over several devices.

    Raises:
        CheckpointError: no such folder or repository, pickled weights only, code of its own, or a model that is neither a sequence
            classifier nor a causal language model.
        SiteError: the model is not built as `family` says, or of an unknown type and its blocks cannot be found.
    """
    folder, name = locate(str(path), revision)
    raw = read_config(folder)
    kind = _kind(folder, raw)
    files = identity_files(folder)
    if not any(file.endswith(".safetensors") for file in files):
        pickles = sorted(found.name for pattern in PICKLES for found in folder.glob(pattern))
        held = (
            f"holds pickled weights only ({pickles[0]}), which can run code when loaded"
            if pickles
            else "holds no weights"
        )
        raise CheckpointError(held, where=str(folder), cure="Save it as safetensors: model.save_pretrained(folder).")

    from transformers import AutoConfig

    _refuse_foreign_code(folder, raw)
    with foreign("config.json cannot be used", folder, "Copy the checkpoint again."):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if family:
            tell(config, family)
        _refuse_what_cannot_run(folder, raw, config, kind)
    fingerprint, autoencoders = fingerprint_of(folder), {}
    if sae is not None:
        places = autoencoders_named(sae)
        fingerprint = _together(fingerprint, places)
        autoencoders = {place: load_autoencoder(path) for place, (path, _) in places.items()}
        _check_widths(config, autoencoders)
        hold_autoencoders(config, autoencoders)
    return Checkpoint(folder, name, fingerprint, config, kind, dtype, autoencoders, device_map)


def _together(fingerprint: str, places: Mapping[str, tuple[str, str]]) -> str:
    """Identity of a checkpoint with autoencoders."""
    return hash_value({"checkpoint": fingerprint, "autoencoders": {place: own for place, (_, own) in places.items()}})


def _check_widths(config: Any, autoencoders: Mapping[str, Autoencoder]) -> None:
    for place, autoencoder in autoencoders.items():
        site = Site.parse(place)
        if site.is_latent or site.layer >= layer_count(config):
            raise CheckpointError(
                f"the model has no site {place}, which an autoencoder is of",
                where="checkpoint.sae",
                cure=f"It has layers 0 to {layer_count(config) - 1} of {', '.join(COMPONENTS)}.",
            )
        width = site_width(config, site)
        if width != autoencoder.width:
            raise CheckpointError(
                f"the autoencoder of {place} reads {autoencoder.width} numbers, and the site has {width}",
                where="checkpoint.sae",
                cure="Name one that was trained on this model.",
            )


def _refuse_what_cannot_run(folder: Path, raw: dict[str, Any], config: PretrainedConfig, kind: Kind) -> None:
    where = str(folder / "config.json")
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"model type {config.model_type!r} has an encoder and a decoder, which is not supported",
            where=where,
            cure=f"Supported: {', '.join(FAMILIES)}, and others that are one stack of blocks.",
        )
    if kind == "language_model" and not family_of(config).decoder:
        raise _neither(where, raw)
    if kind == "classifier" and family_of(config).decoder and config.pad_token_id is None:
        raise CheckpointError(
            "names no pad_token_id, by which a causal classifier finds the last token of a row",
            where=where,
            cure="Set it to the padding token that the model was trained with.",
        )


_lock = Lock()
_opened: Checkpoint | None = None


def open_checkpoint(params: CheckpointParams) -> Checkpoint:
    """`load_checkpoint` for the `checkpoint` section of a configuration.

    The latest one is held until another is opened or `close_checkpoint` is called, so that the stages of an audit load its weights once.

    Raises:
        CheckpointError: none is named, or it cannot be loaded safely.
    """
    global _opened
    if not params.path:
        raise CheckpointError(
            "no checkpoint is named", where="checkpoint.path", cure="Name a folder or hub id with --checkpoint."
        )
    told = params.family.model_dump(exclude_none=True) if params.family else None
    found = load_checkpoint(
        params.path,
        revision=params.revision,
        dtype=params.dtype,
        family=told,
        sae=params.sae,
        device_map=params.device_map,
    )
    with _lock:
        if _opened is None or _identity(_opened) != _identity(found):
            _opened = found
        return _opened


def close_checkpoint() -> None:
    """Let go of the checkpoint that `open_checkpoint` holds, and with it of its weights."""
    global _opened
    with _lock:
        _opened = None


def _identity(checkpoint: Checkpoint) -> tuple[object, ...]:
    names = ("path", "name", "fingerprint", "dtype", "family", "device_map")
    return tuple(getattr(checkpoint, name) for name in names)


def identify_checkpoint(params: CheckpointParams) -> tuple[str, str]:
    """Name and identity without importing torch or transformers, so that asking whether an audit is current stays cheap.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    if not params.path:
        raise CheckpointError(
            "no checkpoint is named", where="checkpoint.path", cure="Name a folder or hub id with --checkpoint."
        )
    folder, name = locate(params.path, params.revision)
    read_config(folder)
    fingerprint = fingerprint_of(folder)
    return name, fingerprint if params.sae is None else _together(fingerprint, autoencoders_named(params.sae))


# keys of config.json that may name compiled code on the hub, which transformers fetches and runs where the package `kernels` is there
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def _refuse_foreign_code(folder: Path, raw: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    fetched = any("/" in str(raw.get(name, "")) for name in _IMPLEMENTATIONS)
    if raw["model_type"] in CONFIG_MAPPING and not fetched:
        return
    if raw.get("auto_map") or fetched:
        raise CheckpointError(
            "needs code of its own, which is never run",
            where=str(folder / "config.json"),
            cure="Use a family built into transformers.",
        )
    raise CheckpointError(
        f"model type {raw['model_type']!r} is not one that the installed transformers has a class for",
        where=str(folder / "config.json"),
        cure=f"Supported: {', '.join(FAMILIES)}, and others that are one stack of blocks.",
    )


def _kind(folder: Path, raw: dict[str, Any]) -> Kind:
    architecture = str((raw.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return "classifier"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "language_model"
    raise _neither(str(folder / "config.json"), raw)


def _neither(where: str, raw: dict[str, Any]) -> CheckpointError:
    architecture = str((raw.get("architectures") or [""])[0])
    return CheckpointError(
        f"architecture {architecture or 'unknown'!r} is neither a sequence classifier nor a causal language model",
        where=where,
        cure="Audit a model saved from AutoModelForSequenceClassification or AutoModelForCausalLM.",
    )
