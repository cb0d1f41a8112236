"""What is compared: the paper's method, the tuned one, both with their parts taken away, and controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from neuronlens.activations.ordinary import read_ordinary
from neuronlens.activations.store import read_activations
from neuronlens.artifact import read_table
from neuronlens.config import Config, TunedParams
from neuronlens.evaluation.choice import FAMILIES
from neuronlens.evaluation.methods import Method
from neuronlens.params import load_config
from neuronlens.ranges.fit import candidate_ranges, sweep_ranges
from neuronlens.ranges.leace import Erasure, fit_erasures
from neuronlens.ranges.statistics import SiteStatistics, fit_statistics

SITES = ("resid_post.last", "resid_post.middle")
PROMPT = "{text} Topic:"

_TOPS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_TAUS = (1.0, 2.0, 2.5, 3.0)
_THREE = (1.0, 2.0, 3.0)
_FEW = (0.1, 0.3, 0.6, 1.0)
# what else could explain a difference: the ranking, the operator, the gate, or the ranges themselves
ALTERNATIVES: Mapping[str, TunedParams] = {
    "paper, ranked by separation": TunedParams(ranges="gaussian", tau=_THREE, top=_FEW, gate="none", operators="zero"),
    "whole, ranked by separation": TunedParams(ranges="full", top=_FEW, gate="none", operators="zero"),
    "gaussian to complement_mean": TunedParams(
        ranges="gaussian", tau=(2.0, 3.0), top=_FEW, gate="none", operators="complement_mean"
    ),
    "gaussian to complement_mean, gated": TunedParams(
        ranges="gaussian", tau=(2.0, 3.0), top=_FEW, gate="agreement", operators="complement_mean"
    ),
    "discriminative to complement_mean": TunedParams(
        ranges="discriminative", top=_FEW, gate="none", operators="complement_mean"
    ),
    "tuned without gate": TunedParams(gate="none"),
    "tuned, ranked by d_prime": TunedParams(saliency="d_prime"),
    "tuned without ranges": TunedParams(ranges="full", gate="none"),
}
CONTROLS = ("tuned/random_ranges", "tuned/random_neurons")
BEST = (*FAMILIES, "leace", *CONTROLS, *ALTERNATIVES)


def _belongs(family: str) -> Callable[[Method], bool]:
    if family == "leace":
        return lambda method: isinstance(method.ranges, Erasure)
    return FAMILIES.get(family) or (lambda method: method.role == family)


COMPARED = {name: _belongs(name) for name in BEST if name not in CONTROLS}


def settings(checkpoint: Path, rows: Path, auxiliary: Path | None, seed: int, **changes: Any) -> Config:
    """The audited preset with a sweep that is wide enough for the paper's form to reach large drops.

    Args:
        checkpoint: a folder.
        rows: labelled text.
        auxiliary: ordinary text for perplexity.
        changes: `section__name=value`.
    """
    asked = {
        "checkpoint.path": str(checkpoint),
        "dataset.path": str(rows),
        "dataset.prompt": PROMPT,
        "extract.sites": SITES,
        "extract.batch_tokens": 2048,  # the same on every device
        "fit.saliency": ["mean_abs"],
        "interventions.ranges": ["gaussian", "full"],
        "interventions.tau": _TAUS,
        "interventions.top": _TOPS,
        "interventions.operators": ["zero"],
        # the other concept's ranges would double the work
        "interventions.controls": ["random_neurons", "random_ranges"],
        "evaluate.auxiliary": None if auxiliary is None else str(auxiliary),
        "seed": seed,
    } | {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(overrides=[f"{name}={json.dumps(value)}" for name, value in asked.items()])


def methods_of(config: Config, audit: Path) -> tuple[list[Method], list[Method]]:
    """What is compared, and the controls of all candidates of the tuned method."""
    rows = read_table(audit / "prepare" / "dataset.parquet")
    found: list[Method] = []
    asked, tuned = config.interventions, config.interventions.tuned
    operators = {"sweep": asked.operators, "tuned": () if tuned is None else tuned.operators}
    activations = read_activations(audit / "extract", rows)
    for site in activations.sites:
        statistics = fit_statistics(
            activations, site, rows=config.fit.rows, ordinary=read_ordinary(audit / "extract", site), seed=config.seed
        )
        ranges = sweep_ranges(statistics, config)
        found += [Method(one, operator, asked.positions) for one in ranges for operator in operators[one.role]]
        found += [Method(one, positions=asked.positions) for one in fit_erasures(statistics)]
        found += [replace(one, positions=asked.positions) for one in _alternatives(statistics)]
    controls = [method for method in found if method.role == "tuned" and method.is_control]
    kept = [method for method in found if any(belongs(method) for belongs in COMPARED.values())]
    return kept, controls


def _alternatives(statistics: SiteStatistics) -> Iterator[Method]:
    """Every alternative's settings; the role says whose they are."""
    for (name, asked), concept in product(ALTERNATIVES.items(), statistics.concepts):
        for found in candidate_ranges(statistics, concept, asked, asked.saliency, asked.gate, name):
            yield from (Method(found, operator) for operator in asked.operators)
