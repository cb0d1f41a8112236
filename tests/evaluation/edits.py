"""Edits at any site of a tiny model: of ranges, behind a gate, and of directions."""

from __future__ import annotations

from dataclasses import replace

import torch

from neuronlens.interventions.kinds import LinearErasure
from neuronlens.sites import COMPONENTS, Site, site_width
from tests.evaluation.by_hand import masking
from tests.models import LAYERS

SITES = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]
RESIDUAL = [site for site in SITES if site.component == "resid_post"]


def half(config, site, operator="zero", positions="all"):
    """Edit the positive half of every second neuron."""
    neurons = torch.arange(0, site_width(config, site), 2)
    upper = torch.full((len(neurons), 1), 5.0)
    return masking(site, neurons, torch.zeros_like(upper), upper, operator, positions=positions)


def gated(item):
    """The same where three of the neurons are in range."""
    evidence = torch.stack([torch.ones(1, item.width), torch.zeros(1, item.width)])
    return replace(item, evidence=evidence, threshold=torch.tensor([3.0]))


def erasing(config, site, positions):
    """A rotation that no single neuron could do."""
    width = site_width(config, site)
    return LinearErasure(site, *torch.randn(3, width, generator=torch.Generator().manual_seed(0)), positions)


def some_edits(config, layers=(0, 2), operator="zero"):
    """Zero the positive half of every third neuron, and all of it."""
    edits = []
    for layer in layers:
        for component in ("resid_post", "mlp_post"):
            neurons = torch.arange(0, site_width(config, Site(layer, component)), 3)
            upper = torch.full((len(neurons), 1), torch.inf)
            edits += [
                masking(Site(layer, component), neurons, torch.zeros_like(upper), upper, operator),
                masking(Site(layer, component), neurons, -upper, upper, operator),
            ]
    return edits
