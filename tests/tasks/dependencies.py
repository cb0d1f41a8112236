"""Which stages depend on what: the tables that caching is held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from neuronlens.config import Config
from neuronlens.stages import STAGES

INITIALS = {"p": "prepare", "x": "extract", "f": "fit", "e": "evaluate", "r": "report"}

# parameter -> another value, and the stages that it decides about
PARAMETERS: Mapping[str, tuple[Any, str]] = {
    "preset": ("official", "r"),
    "checkpoint.path": (None, ""),  # what lies there counts, see INPUTS; the report tells the rest
    "checkpoint.revision": ("main", "r"),
    "checkpoint.dtype": ("bfloat16", "xer"),
    "checkpoint.sae": (None, ""),
    "checkpoint.family.blocks": ("h", "pxer"),
    "checkpoint.family.mlp_down": ("mlp.c_proj", "pxer"),
    "checkpoint.family.attn_out": ("attn", "pxer"),
    "checkpoint.family.mlp_out": ("mlp", "pxer"),
    "checkpoint.family.decoder": (True, "pxer"),
    "checkpoint.family.layers": ("n_layer", "pxer"),
    "checkpoint.family.inner": ("n_inner", "pxer"),
    "checkpoint.device_map": ("auto", "r"),
    "dataset.path": (None, ""),
    "dataset.text": ("label", "pxer"),
    "dataset.label": ("text", "pxer"),
    "dataset.split": ("part", "pxer"),
    "dataset.max_tokens": (20, "pxer"),
    "dataset.prompt": ("{text} Subject:", "pxer"),
    "dataset.labels": ({"finance": "health"}, "pxer"),
    "extract.sites": (["mlp_post.1"], "pxr"),
    "extract.pooling": ("mean", "xer"),
    "extract.batch_tokens": (64, "xer"),
    "extract.keep_rows": (False, "xr"),
    "extract.disk_budget": ("1 MB", "xr"),
    "fit.rows": ("all", "fr"),
    "fit.saliency": ("probe", "fr"),
    "fit.minimum_rows": (3, "fr"),
    "interventions.ranges": ("full", "fer"),
    "interventions.tau": (3.0, "fer"),
    "interventions.threshold": (3.0, "fer"),
    "interventions.top": (0.25, "pfer"),
    "interventions.operators": ("mean", "fer"),
    "interventions.positions": ("last", "fer"),
    "interventions.controls": ([], "fer"),
    "interventions.tuned.ranges": ("full", "fer"),
    "interventions.tuned.tau": (3.0, "fer"),
    "interventions.tuned.threshold": (3.0, "fer"),
    "interventions.tuned.saliency": ("mean", "fer"),
    "interventions.tuned.top": (0.5, "pfer"),
    "interventions.tuned.gate": ("none", "fer"),
    "interventions.tuned.operators": ("mean", "fer"),
    "interventions.joint": ([3], "fer"),
    "evaluate.scoring": ("free", "xer"),
    "evaluate.auxiliary": (None, ""),
    "evaluate.auxiliary_rows": (2, "xer"),
    "evaluate.questions": (None, ""),
    "evaluate.bootstrap": (200, "er"),
    "gates": ({"selective": "selectivity >= 0.1"}, ""),
    "remote.url": ("/elsewhere", ""),
    "remote.push": (True, ""),
    "runner.kind": ("processes", ""),
    "runner.workers": (3, ""),
    "runner.address": ("tcp://host:8786", ""),
    "runner.store": ("s3://bucket/folder", ""),
    "seed": (1, "pxfer"),
}


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Dotted names of all parameters, and the section that each stands in."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner:
            yield from leaves(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name, model


def named(initials: str) -> set[str]:
    """Stages by their letters."""
    return {INITIALS[initial] for initial in initials}


def with_followers(changed: set[str]) -> set[str]:
    """Stages that are made again where these change what they write."""
    found = set(changed)
    for name, stage in STAGES.items():
        if found & {*stage.needs}:
            found.add(name)
    return found


def flip(file: Path, place: int = -2) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _swap(folder: Path) -> None:
    one, two = sorted(folder.glob("model-*.safetensors"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# what comes from outside -> how one part of it becomes another, and the stages that it decides about
INPUTS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the weights": (lambda own: flip(next((own / "gpt2").glob("model-00002*"))), "pxer"),
    "two shards swapped": (lambda own: _swap(own / "gpt2"), "pxer"),
    "config": (lambda own: _edit(own / "gpt2/config.json", layer_norm_epsilon=1e-3), "pxer"),
    "generation config": (lambda own: _edit(own / "gpt2/generation_config.json", max_new_tokens=7), "pxer"),
    "tokenizer": (lambda own: _edit(own / "gpt2/tokenizer.json", truncation=None, padding=None, added=1), "pxer"),
    "tokenizer config": (lambda own: _edit(own / "gpt2/tokenizer_config.json", model_max_length=9), "pxer"),
    "a bit of the autoencoder": (lambda own: flip(own / "sae/sae_weights.safetensors"), "pxer"),
    "autoencoder config": (lambda own: _edit(own / "sae/cfg.json", architecture="gated"), "pxer"),
    "a row": (lambda own: flip(own / "topics.csv", 40), "pr"),
    "ordinary text": (lambda own: flip(own / "ordinary.txt", 3), "pxe"),
    "a question": (lambda own: flip(own / "questions.jsonl", 15), "pe"),
}


# how a checkpoint is opened and where it is put; its bytes have an identity of their own
_OPENED = {"checkpoint.revision", "checkpoint.device_map"}
# what a stage reads of parameters that are not in its key
UNKEYED: Mapping[str, set[str]] = {
    # no weight is loaded; what later stages would trip over is refused early
    "prepare": {*_OPENED, "checkpoint.dtype", "evaluate.scoring", "evaluate.auxiliary_rows"},
    "extract": _OPENED,
    # every table of the stage `fit` has a row for each site
    "evaluate": {*_OPENED, "extract.sites"},
}
