"""What the tests of edits share: a ragged batch, and an edit that is easy to reason about."""

from __future__ import annotations

import torch

from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.operators import Target
from neuronlens.sites import site_width
from tests.conftest import sentences

INF = float("inf")
POSITIONS = ("all", "prompt", "last", "generated", "pooled")


def batch_of(checkpoint, count=4):
    """A ragged batch as a user would tokenise it: decoders on the left."""
    side = "left" if checkpoint.kind == "language_model" else "right"
    return dict(checkpoint.tokenizer(sentences(count), padding=True, padding_side=side, return_tensors="pt"))


def target_of(lower, upper, **numbers):
    """What operators look at for bounds [K, 1]; numbers are 0 and spreads 1 unless told otherwise."""
    given = {"mean": 0.0, "std": 1.0, "complement_mean": 0.0, "complement_std": 1.0, "pooled_mean": 0.0} | numbers
    width = lower[:, 0].shape
    return Target(lower[:, 0], upper[:, 0], *(torch.full(width, number) for number in given.values()))


def between(config, site, lower, upper, **how):
    """Every second neuron between two bounds; `complement_mean` and the other numbers are those of all of them."""
    neurons = torch.arange(0, site_width(config, site), 2)
    return of_neurons(site, neurons, lower, upper, **how)


def of_neurons(site, neurons, lower, upper, **how):
    """Some neurons between two bounds, each a number or [K, 1]."""
    bounds = [
        bound if isinstance(bound, torch.Tensor) else torch.full((len(neurons), 1), bound) for bound in (lower, upper)
    ]
    names = ("mean", "std", "complement_mean", "complement_std", "pooled_mean")
    numbers = {name: how.pop(name) for name in names if name in how}
    return Intervention(site, neurons, *bounds, target_of(*bounds, **numbers), **how)
