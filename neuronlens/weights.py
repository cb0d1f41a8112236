"""Weights: read from a checkpoint's folder into the stock transformers class, all of them, in the shapes of its config.json."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.errors import CheckpointError
from neuronlens.saved import foreign

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_weights(
    path: Path, *, classifier: bool, dtype: str, device_map: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """The model of a folder in eval mode, on the accelerator where there is one.

    Args:
        classifier: whether it is a sequence classifier; a causal language model otherwise.
        dtype: name of torch's, or `auto`, as they are stored.
        device_map: `auto` spreads them over several devices, None keeps them on one.

    Returns:
        The model, and the names of the stored tensors that it has no place for, sorted.

    Raises:
        CheckpointError: they cannot be read, have other shapes than config.json says, do not cover the whole model, or do not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    spread = _spread(device_map)
    cure = "Copy the checkpoint again, or save it whole: model.save_pretrained(folder)."
    with foreign("the weights cannot be loaded", path, cure), _quietly():
        loaded: Any = loader.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in words that name one
            **spread,
        )
    model, info = loaded
    _refuse_what_does_not_fit(info, path)
    model.requires_grad_(False)
    if device_map is None:
        model = model.to(default_device())
    else:
        _check_within_reach(model, path)
    return model.eval(), sorted(info["unexpected_keys"])


def _refuse_what_does_not_fit(info: dict[str, Any], path: Path) -> None:
    if info["mismatched_keys"]:
        key, stored, made = min(info["mismatched_keys"])
        raise CheckpointError(
            f"{key} is {[*stored]} in the weights and {[*made]} by config.json",
            where=str(path),
            cure="Copy both from one place, or save the model whole: model.save_pretrained(folder).",
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            f"the weights lack {len(missing)} tensors of the model, {missing[0]} among them",
            where=str(path),
            cure="They would stay random; save the fine-tuned model whole.",
        )


def _spread(device_map: str | None) -> dict[str, str]:
    """What the loader is told of several devices.

    Raises:
        CheckpointError: the package that does it is not there.
    """
    if device_map is None:
        return {}
    if find_spec("accelerate") is None:
        raise CheckpointError(
            "spreading a model over devices needs the package accelerate",
            where="checkpoint.device_map",
            cure='pip install "neuronlens[big]", or --set checkpoint.device_map=null.',
        )
    return {"device_map": device_map}


def _check_within_reach(model: PreTrainedModel, path: Path) -> None:
    """Refuse a model whose head or embeddings had to be put aside: they are read as they are, not only run.

    Raises:
        CheckpointError: they were.
    """
    ends = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    for name, module in ends.items():
        if module is not None and any(weight.is_meta for weight in module.parameters()):
            raise CheckpointError(
                f"does not fit into the memory of this machine: there is no room for its {name}",
                where=str(path),
                cure="Use a machine with more memory, or --set checkpoint.dtype=bfloat16.",
            )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No bar for reading weights, which says nothing about the audit; what the caller had set is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def default_device() -> str:
    """`cuda` where a usable card is present, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
