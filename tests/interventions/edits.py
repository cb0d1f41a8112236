"""What the tests of edits share: a ragged batch, and an edit that is easy to reason about."""

from __future__ import annotations

import torch

from neuronlens.interventions.edit import Intervention
from neuronlens.sites import site_width
from tests.conftest import sentences

INF = float("inf")
POSITIONS = ("all", "prompt", "last", "generated", "pooled")


def batch_of(checkpoint, count=4):
    """A ragged batch as a user would tokenise it: decoders on the left."""
    side = "left" if checkpoint.kind == "language_model" else "right"
    return dict(checkpoint.tokenizer(sentences(count), padding=True, padding_side=side, return_tensors="pt"))


def between(config, site, lower, upper, **how):
    """Every second neuron between two bounds."""
    neurons = torch.arange(0, site_width(config, site), 2)
    bounds = (torch.full((len(neurons), 1), bound) for bound in (lower, upper))
    return Intervention(site, neurons, *bounds, **how)
