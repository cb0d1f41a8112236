"""The fit: every method that is asked for, once, and the same for the same seed."""

from __future__ import annotations

from neuronlens.config import Config
from neuronlens.ranges.fit import sweep_ranges
from tests.ranges.sample import SWEEP, same, statistics


def test_a_sweep_has_each_method_of_each_concept_once():
    found = sweep_ranges(statistics(neurons=20, per=40), Config())
    names = ("concept", "role", "saliency", "top", "kind", "base", "tau", "threshold", "gate")
    keys = [tuple(getattr(part, name) for name in names) for part in found]
    assert len(set(keys)) == len(keys)
    kinds = [(part.role, part.kind) for part in found]
    # per concept, 4 shares and 2 rankings: 2 taus and the whole neuron
    assert kinds.count(("sweep", "gaussian")) == 3 * 4 * 2 * 2
    assert kinds.count(("sweep", "full")) == 3 * 4 * 2
    # random neurons do not depend on the ranking, and one of the shares leaves none to draw
    assert kinds.count(("sweep", "random_neurons")) == 3 * 3 * 3
    # nor is there another place for a range that is everywhere
    assert kinds.count(("sweep", "random_ranges")) == 3 * 4 * 2 * 2
    assert kinds.count(("sweep", "other_concept")) == 3 * 4 * 2 * 3
    # per concept: 2 shares of gaussian ranges and of discriminative ones at 2 thresholds
    for kind in ("random_neurons", "random_ranges", "other_concept"):
        assert kinds.count(("tuned", kind)) == 3 * 2 * 3


def test_whole_neurons_have_no_gate():
    config = Config.model_validate({"interventions": {"tuned": {"ranges": ["full"], "gate": ["none", "agreement"]}}})
    whole = [part for part in sweep_ranges(statistics(), config) if part.kind == "full"]
    assert {part.gate for part in whole} == {"none"}


def test_the_same_seed_gives_the_same_ranges_and_another_one_other_lots():
    config = Config.model_validate(SWEEP)
    one, two, other = (sweep_ranges(statistics(per=40, draws=draws), config) for draws in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    differ = {a.kind for a, b in zip(one, other, strict=True) if a.saliency != "random" and not same(a, b)}
    assert differ == {"random_ranges"}
    assert any(not same(a, b) for a, b in zip(one, other, strict=True) if a.saliency == "random")
