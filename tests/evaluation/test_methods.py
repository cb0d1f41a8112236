"""Methods: what the fit wrote is read whole, has names of its own, and is run once where it does the same to the model."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from neuronlens.activations.extract import collect_activations
from neuronlens.activations.ordinary import collect_ordinary
from neuronlens.artifact import write_table
from neuronlens.evaluation import sweep
from neuronlens.evaluation.methods import CONTROLS, Method, by_place, distinct, read_methods
from neuronlens.evaluation.sweep import evaluate_methods
from neuronlens.params import load_config
from neuronlens.ranges.fit import sweep_ranges
from neuronlens.ranges.leace import fit_erasures, write_erasures
from neuronlens.ranges.selection import Ranges, fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.ranges.tables import ranges_table
from neuronlens.sites import Site
from tests.conftest import labelled

SITES = ("resid_post.1", "mlp_post.2")
CONCEPTS = ("finance", "health", "sports")
# sixteen neurons a site: a tenth would be a single one
AUDITED = ("interventions.top=[0.2, 0.3]",)
WIDE = (
    "fit.saliency=[mean_abs, d_prime]",
    "interventions.ranges=[gaussian, quantile, discriminative, full]",
    "interventions.tau=2.0",
    "interventions.top=0.3",
    "interventions.operators=[zero, steer:-1]",
    "interventions.tuned={ranges: [gaussian, discriminative], gate: [none, agreement], threshold: [1.0, 2.0], top: 0.3, "
    "saliency: [d_prime, mean_abs], operators: [steer:-1]}",
)
OFFICIAL = ("preset=official",)


@pytest.fixture(scope="module")
def rows():
    return labelled(CONCEPTS, fit=10, validation=2, test=3)


@pytest.fixture(scope="module")
def activations(checkpoints, rows):
    return collect_activations(checkpoints("bert"), rows, SITES)


@pytest.fixture(scope="module")
def fitted(checkpoints, rows, activations, tmp_path_factory):
    """`fitted(*overrides)` is what a configuration reads from what it had the fit write, and what was written."""
    checkpoint, made = checkpoints("bert"), {}
    ordinary = collect_ordinary(checkpoint, rows, SITES)

    def make(*overrides):
        if overrides not in made:
            config = load_config(None, [*overrides, "fit.rows=all", "evaluate.bootstrap=100"])
            found, erasures = [], []
            for name in SITES:
                site = Site.parse(name)
                statistics = fit_statistics(activations, site, rows="all", ordinary=ordinary[site])
                found += sweep_ranges(statistics, config)
                erasures += fit_erasures(statistics) if "leace" in config.interventions.controls else []
            folder = tmp_path_factory.mktemp("fit")
            write_table(folder / "ranges.parquet", ranges_table(found))
            if erasures:
                write_erasures(folder / "leace.parquet", erasures)
            made[overrides] = read_methods(folder, config), [*found, *erasures], config
        return made[overrides]

    return make


def key(method):
    return method.ranges.site, method.ranges.concept, method.role, method.name


@pytest.mark.parametrize("overrides", [AUDITED, WIDE, OFFICIAL])
def test_every_method_that_was_fitted_has_a_name_of_its_own(fitted, overrides):
    """Unique per site, concept and role: nothing is lost for want of a name."""
    methods, written, config = fitted(*overrides)
    asked = config.interventions
    operators = {"sweep": len(asked.operators), "tuned": len(asked.tuned.operators) if asked.tuned else 0}
    expected = sum(operators[part.role] if isinstance(part, Ranges) else 1 for part in written)
    assert len(methods) == expected
    assert max(Counter(map(key, methods)).values()) == 1
    assert {method.positions for method in methods} == {"all"}


def test_methods_are_read_with_the_positions_that_are_asked_for(fitted):
    methods, written, _ = fitted(*AUDITED, "interventions.positions=pooled")
    assert {type(method.ranges) for method in methods} == {type(part) for part in written}
    assert len({type(method.ranges) for method in methods}) == 2, "ranges, and linear erasures"
    assert {method.positions for method in methods} == {"pooled"}


def test_what_is_read_does_what_was_fitted(fitted):
    methods, written, _ = fitted(*WIDE)
    hidden, tokens = torch.randn(3, 4, 24, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4, dtype=bool)
    fresh = {}
    for part in written:
        for operator in ("zero", "steer:-1") if isinstance(part, Ranges) else ("zero",):
            method = Method(part, operator)
            fresh[key(method)] = method
    for method in methods:
        width = 16 if method.ranges.site.component == "resid_post" else 24
        read, own = (m.edit("auto").apply(hidden[..., :width], tokens) for m in (method, fresh[key(method)]))
        assert torch.equal(read[0], own[0])
        assert torch.equal(read[1], own[1])


def test_a_candidate_that_the_sweep_holds_as_well_is_read_in_both_roles(fitted):
    methods, _, _ = fitted(*WIDE)
    _, index = distinct(methods)
    roles = {}
    for method, at in zip(methods, index, strict=True):
        if not method.is_control:
            roles.setdefault((method.ranges.site, method.ranges.concept, method.name), {})[method.role] = at
    both = [found for found in roles.values() if len(found) == 2]
    assert len(both) == 24, "two kinds by two rankings, of three concepts at two sites"
    assert all(found["sweep"] == found["tuned"] for found in both)


def own_of_next(methods, control):
    """The method that an `other_concept` control borrows."""
    following = CONCEPTS[(CONCEPTS.index(control.ranges.concept) + 1) % len(CONCEPTS)]
    ranges = control.ranges
    same = ("site", "role", "saliency", "top", "tau", "threshold", "gate")
    (found,) = (
        method
        for method in methods
        if method.ranges.concept == following
        and isinstance(method.ranges, Ranges)
        and all(getattr(method.ranges, name) == getattr(ranges, name) for name in same)
        and (method.ranges.label, method.operator) == (ranges.base, control.operator)
    )
    return found


@pytest.mark.parametrize("overrides", [AUDITED, WIDE])
def test_methods_are_merged_where_they_do_the_same_and_nowhere_else(fitted, activations, overrides):
    methods, _, _ = fitted(*overrides)
    first, index = distinct(methods)
    place = {id(method): at for method, at in zip(methods, index, strict=True)}
    assert [index.index(at) for at in range(len(first))] == sorted({index.index(at) for at in index})
    for method, at in zip(methods, index, strict=True):
        assert method.effect == first[at].effect
        if method is not first[at]:
            hidden = torch.from_numpy(activations.values[method.ranges.site].T.copy())[:, None]
            tokens = torch.ones(len(hidden), 1, dtype=torch.bool)
            one, other = (m.edit("auto").apply(hidden, tokens)[0] for m in (method, first[at]))
            assert torch.equal(one, other)
    for one, other in combinations(first, 2):
        assert one.effect != other.effect
    controls = [m for m in methods if isinstance(m.ranges, Ranges) and m.ranges.kind == "other_concept"]
    assert controls
    for control in controls:
        assert place[id(control)] == place[id(own_of_next(methods, control))]


def test_a_name_stands_for_one_edit_unless_it_is_borrowed(fitted):
    """Of the audited sweep only a neighbour's methods are merged, and tuned ones with the sweep's."""
    methods, _, _ = fitted(*AUDITED)
    _, index = distinct(methods)
    shared = [i for i, at in enumerate(index) if index.count(at) > 1]
    groups = {index[i]: [methods[j] for j in shared if index[j] == index[i]] for i in shared}
    for group in groups.values():
        assert "other_concept" in {method.identity["range"] for method in group}


def test_a_method_is_edited_at_the_positions_and_with_the_pooling_that_are_asked_for(fitted, tmp_path):
    methods, _, _ = fitted(*WIDE)
    kinds = {type(method.ranges): method for method in methods}
    assert len(kinds) == 2, "ranges, and linear erasures"
    for method in kinds.values():
        item = Method(method.ranges, method.operator, "pooled").edit("mean")
        assert (item.positions, item.pooling) == ("pooled", "mean")


def test_results_do_not_depend_on_merging(fitted, checkpoints, rows, monkeypatch):
    methods, _, config = fitted(*AUDITED)
    some = [method for method in methods if str(method.ranges.site) == SITES[0]]
    checkpoint = checkpoints("bert")
    merged, once = evaluate_methods(checkpoint, rows, some, config)
    monkeypatch.setattr(sweep, "distinct", lambda given: (list(given), list(range(len(given)))))
    apart, scores = evaluate_methods(checkpoint, rows, some, config)
    assert len(once.predicted) == len(scores.predicted) == len(some) + 1
    np.testing.assert_array_equal(once.predicted, scores.predicted)
    np.testing.assert_array_equal(once.confidence, scores.confidence)
    assert merged.equals(apart)
    assert len(np.unique(merged["confidence_selectivity"].to_numpy())) > len(some) / 3


@pytest.mark.parametrize("overrides", [AUDITED, WIDE])
def test_a_candidate_finds_its_own_controls(fitted, overrides):
    methods, _, _ = fitted(*overrides)
    for places in by_place(methods).values():
        own = [methods[i] for i in places]
        for method in own:
            if method.is_control:
                continue
            mirrored = sorted(other.identity["range"] for other in methods if other.mirrors(method))
            kinds = [kind for kind in CONTROLS if not (kind == "random_ranges" and method.ranges.kind == "full")]
            assert mirrored == sorted(kinds), method.name
            assert all(other in own for other in methods if other.mirrors(method)), "of the same concept and site"


def test_a_control_has_one_owner_per_ranking(fitted):
    methods, _, config = fitted(*WIDE)
    for control in methods:
        owners = [method for method in methods if control.mirrors(method)]
        if not control.is_control or not isinstance(control.ranges, Ranges):
            assert owners == []
            continue
        assert all(not owner.is_control for owner in owners)
        rankings = len(config.fit.saliency if control.role == "sweep" else config.interventions.tuned.saliency)
        # random neurons do not depend on the ranking that they replace
        assert len(owners) == (rankings if control.ranges.kind == "random_neurons" else 1)
        for owner in owners:
            assert len(owner.ranges.neurons) == len(control.ranges.neurons)
            if control.ranges.kind == "random_ranges":
                assert control.ranges.neurons.tolist() == owner.ranges.neurons.tolist()


def test_names_tell_what_is_done(checkpoints, dataset):
    statistics = fit_statistics(collect_activations(checkpoints("gpt2"), dataset), "resid_post.2", rows="all")

    def name(operator="zero", positions="all", **how):
        return Method(fit_ranges(statistics, "sports", **how), operator, positions).name

    assert name(top=0.1, tau=2.5) == "gaussian-2.5/d_prime/0.1/zero/all"
    assert name("dampen:0.5", "last", kind="full", top=0.3) == "full/d_prime/0.3/dampen:0.5/last"
    assert name("steer:-1", kind="discriminative", gate="agreement", saliency="mean_abs", top=0.3) == (
        "discriminative-1+agreement/mean_abs/0.3/steer:-1/all"
    )
    assert Method(fit_erasures(statistics)[0], positions="prompt").name == "leace/prompt"
