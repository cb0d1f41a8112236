"""Checkpoints as they are saved: where their files lie, which of them decide what a model does, and the identity of these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuronlens.artifact import hash_files, read_json, slug
from neuronlens.errors import ArtifactError, CheckpointError, NeuronLensError
from neuronlens.hub import hub_errors

# What decides a model's behaviour. Optimizer states, training logs and model cards beside them do not.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = (
    "tokenizer*.json",
    "tokenizer.model",
    "*.spm",
    "spiece.model",
    "sentencepiece*.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
_PATTERNS = ("config.json", "generation_config.json", *_WEIGHTS, *TOKENIZER)
ADAPTERS = ("adapter_config.json", "adapter_model.*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def locate(path: str, revision: str | None) -> tuple[Path, str]:
    """The local folder of a checkpoint, downloaded if it is a hub id, and its name.

    Raises:
        CheckpointError: there is no such folder, or the hub cannot give it.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        named = f"{folder.parent.name}-{folder.name}" if re.fullmatch(r"checkpoint-\d+", folder.name) else folder.name
        return folder, slug(named, "checkpoint")
    if folder.exists():
        raise CheckpointError("is a file", where=path, cure="Name the folder that holds config.json and the weights.")
    if path.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(path):
        raise CheckpointError(
            "no such folder", where=path, cure="Name a checkpoint folder, or a hub id such as owner/name@revision."
        )
    hub_id, _, at = path.partition("@")
    return _download(hub_id, at or revision), slug(hub_id.replace("/", "--"), "checkpoint")


def _download(hub_id: str, revision: str | None) -> Path:
    """The snapshot folder of a hub repository; only config, safetensors and tokenizer files are fetched, and what tells of an adapter."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[*_PATTERNS, *ADAPTERS[:1]]))
    except hub_errors() as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"is no folder here and cannot be had from the hub ({reason})",
            where=hub_id + (f"@{revision}" if revision else ""),
            cure="Check the spelling, the revision and the network, or name a local folder.",
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, with a model type.

    Raises:
        CheckpointError: there is none, it is no JSON object, or there is an adapter beside it.
    """
    adapter = next((path.name for pattern in ADAPTERS for path in sorted(folder.glob(pattern))), None)
    if adapter is not None:
        # transformers would put it on where the package peft is installed, pass it by in silence where it is not, and take a model that
        # the adapter names, from wherever that is, for the one that lies here
        raise CheckpointError(
            f"holds an adapter ({adapter}), which is a part of a model only",
            where=str(folder),
            cure="Merge it into the model and save that: model.merge_and_unload().save_pretrained(folder).",
        )
    file = folder / "config.json"
    if not file.exists():
        inner = [path.parent.name for path in folder.glob("*/config.json")]
        last = max(inner, key=lambda name: (int((re.findall(r"\d+", name) or [-1])[-1]), name), default=None)
        cure = f"Did you mean {folder / last}?" if last else "Name the folder that save_pretrained wrote."
        raise CheckpointError("holds no config.json", where=str(folder), cure=cure)
    try:
        raw = read_json(file)
    except ArtifactError:
        raise CheckpointError("is no JSON", where=str(file), cure="Copy the checkpoint again.") from None
    if not isinstance(raw, dict):
        raise CheckpointError("is no JSON object", where=str(file), cure="Copy the checkpoint again.")
    raw["model_type"] = str(raw.get("model_type"))
    return raw


_PANICS = "pyo3_runtime"  # the module that their class says it is of


@contextmanager
def foreign(what: str, where: Path, cure: str) -> Iterator[None]:
    """Around what transformers and its like do with files that anybody may have written.

    Raises:
        CheckpointError: they stumbled. Over such files they do in every way, and what is written in Rust panics, which is no `Exception`.
    """
    try:
        yield
    except NeuronLensError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != _PANICS:
            raise  # whoever ends the process, by a signal or otherwise, says nothing of the files
        told = str(error).strip() or type(error).__name__
        raise CheckpointError(f"{what} ({told})", where=str(where), cure=cure) from error


def fingerprint_of(folder: Path) -> str:
    """sha256 (hex) over the sorted (relative path, size, sha256) of the files that decide."""
    names = identity_files(folder)
    stats = [(folder / name).stat() for name in names]
    return _hash_once(folder, tuple(names), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=64)
def _hash_once(folder: Path, names: tuple[str, ...], _: tuple[tuple[int, int], ...]) -> str:
    """The weights are asked for by every stage and may be many gigabytes: read once a process, again when a size or time changes."""
    return hash_files(folder, list(names))


def identity_files(folder: Path) -> list[str]:
    """Names of the files that decide, sorted."""
    return sorted({path.name for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
