"""NeuronLens: audit transformer checkpoints by the activation ranges of their neurons.

    checkpoint = load_checkpoint("runs/topics/checkpoint-400")
    dataset = load_dataset("topics.parquet")
    activations = collect_activations(checkpoint, dataset, ["resid_post.last"])
    statistics = fit_statistics(activations, activations.sites[0])
    sports = fit_ranges(statistics, "sports", saliency="d_prime", top=0.1, tau=2.5)
    with edit(checkpoint.model, sports):
        ...  # any forward or generate call

Names are imported at first use, since torch and transformers take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuronlens import figures as figures
    from neuronlens.activations.capture import capture as capture
    from neuronlens.activations.extract import collect_activations as collect_activations
    from neuronlens.checkpoint import load_checkpoint as load_checkpoint
    from neuronlens.config import Config as Config
    from neuronlens.dataset import load_dataset as load_dataset
    from neuronlens.evaluation.methods import Method as Method
    from neuronlens.evaluation.sweep import evaluate_methods as evaluate_methods
    from neuronlens.interventions.edit import edit as edit
    from neuronlens.interventions.kinds import Intervention as Intervention
    from neuronlens.interventions.lens import Lens as Lens
    from neuronlens.params import load_config as load_config
    from neuronlens.ranges.selection import fit_ranges as fit_ranges
    from neuronlens.ranges.statistics import fit_statistics as fit_statistics
    from neuronlens.report.neurons.card import NeuronCard as NeuronCard
    from neuronlens.report.neurons.masked import mask_neuron as mask_neuron

_HOMES = {
    "Config": "config",
    "Intervention": "interventions.kinds",
    "Lens": "interventions.lens",
    "Method": "evaluation.methods",
    "NeuronCard": "report.neurons.card",
    "capture": "activations.capture",
    "collect_activations": "activations.extract",
    "edit": "interventions.edit",
    "evaluate_methods": "evaluation.sweep",
    "fit_ranges": "ranges.selection",
    "fit_statistics": "ranges.statistics",
    "load_checkpoint": "checkpoint",
    "load_config": "params",
    "load_dataset": "dataset",
    "mask_neuron": "report.neurons.masked",
}
_MODULES = ("figures",)
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"neuronlens.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"neuronlens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
