"""The checkpoints: the example's classifier, the same saved again, and one that has lost accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from neuronlens.example.corpus import Row
from neuronlens.example.measure import classifier_accuracy

DROP = 0.07
"""Planted, as a share of the rows."""
_HALVINGS = 12


def plant(classifier: Path, folder: Path, rows: Sequence[Row], halvings: int = _HALVINGS) -> dict[str, Path]:
    """Checkpoints `plain`, `again` (its weights rounded to bfloat16) and `worse` (noise on its weights that costs `DROP`).

    Args:
        classifier: of the example.
        folder: where the other two are made.
        rows: that the loss is measured on.
        halvings: steps towards the right amount of noise.
    """
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    found = {"plain": classifier, "again": folder / "again", "worse": folder / "worse"}
    for path in (found["again"], found["worse"]):
        AutoTokenizer.from_pretrained(classifier).save_pretrained(path)
    _save(model, {name: weight.bfloat16().float() for name, weight in weights.items()}, found["again"])

    generator = torch.Generator().manual_seed(0)
    noise = {
        name: weight.std() * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
        if weight.dim() > 1 and ".encoder." in name
    }
    wanted, low, high = classifier_accuracy(classifier, rows) - DROP, 0.0, 2.0
    for _ in range(halvings):
        middle = (low + high) / 2
        spoilt = {name: weight + middle * noise.get(name, 0) for name, weight in weights.items()}
        _save(model, spoilt, found["worse"])
        low, high = (middle, high) if classifier_accuracy(found["worse"], rows) > wanted else (low, middle)
    return found


def _save(model: PreTrainedModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(folder)
