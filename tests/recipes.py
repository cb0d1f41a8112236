"""What each worked example of CONTRIBUTING.md gives, looked at in the sources that it was applied to.

`python tests/recipes.py ROOT NAME=COPY ...` looks at each copy, and at ROOT without it. It prints what went wrong in JSON,
name -> [there, here]. One process does it all, since to import torch and transformers takes longer than everything else together.
"""

from __future__ import annotations

import json
import sys
import traceback


def operator():
    import torch

    from neuronlens.config import InterventionParams, config_schema
    from neuronlens.interventions.kinds import Intervention
    from neuronlens.interventions.operators import Target
    from neuronlens.sites import Site

    assert InterventionParams(operators="mirror").operators == ("mirror",)
    assert "|mirror|" in json.dumps(config_schema())
    bounds, numbers = [torch.tensor([-1.0]), torch.tensor([1.0])], [torch.tensor([float(i)]) for i in range(5)]
    target = Target(*bounds, *numbers)  # whose complement_mean is 2
    edit = Intervention(Site(0, "resid_post"), torch.tensor([1]), *(edge[None] for edge in bounds), target, "mirror")
    edited, changed = edit.apply(torch.tensor([[[0.5, 0.5], [3.0, 3.0]]]), torch.ones(1, 2, dtype=torch.bool))
    assert edited.tolist() == [[[0.5, 3.5], [3.0, 3.0]]]
    assert changed.tolist() == [[[True], [False]]]


def saliency():
    import numpy as np

    from neuronlens.config import FitParams, config_schema
    from neuronlens.ranges.tables import statistics_table
    from tests.ranges.sample import statistics

    assert FitParams(saliency="spread").saliency == ("spread",)
    assert '"spread"' in json.dumps(config_schema())
    table = statistics_table(statistics(), ["spread"])
    own, rest, scores = (table[name].to_numpy() for name in ("std", "complement_std", "spread"))
    varies = own > 0
    np.testing.assert_allclose(scores[varies], abs(np.log(own[varies] / rest[varies])), rtol=1e-9, atol=1e-12)
    assert (scores[~varies] == 0).all()
    assert len(scores) > varies.sum() > 0


def kind():
    from neuronlens.config import InterventionParams, config_schema
    from neuronlens.pages.theme import SHAPES, light
    from neuronlens.ranges.selection import fit_ranges
    from neuronlens.report.table import KIND_NAMES
    from tests.ranges.sample import activations, members, statistics

    assert InterventionParams(ranges="observed").ranges == ("observed",)
    assert '"observed"' in json.dumps(config_schema())
    found, rows = fit_ranges(statistics(), "b", kind="observed", top=0.5), members(activations(), "b")[:]
    assert found.lower[:, 0].tolist() == rows.min(axis=1)[found.neurons].tolist()
    assert found.upper[:, 0].tolist() == rows.max(axis=1)[found.neurons].tolist()
    assert set(found.dose_target) == {1.0}
    assert (KIND_NAMES["observed"], bool(light("observed")), "observed" in SHAPES) == ("observed ranges", True, True)


def gate():
    from datetime import date

    from neuronlens.comparison.gates import judge_gate
    from neuronlens.config import GateParams

    rule = GateParams(rule="no_op_difference <= 0")
    for difference, verdict in ((0.0, "PASS"), (1e-6, "FAIL")):
        audit = {
            "base": {"accuracy": 0.9, "low": 0.8, "high": 1.0, "concepts": []},
            "sites": [{"site": "resid_post.0"}],
            "summary": [{"role": "sweep", "method": "a", "site": None}],
            "results": [],
            "trust": {"no_op_difference": difference},
        }
        judged = judge_gate("hooks", rule, audit, None, first=False, today=date(2026, 1, 1))
        assert (judged.verdict, judged.value) == (verdict, difference)


def family():
    from neuronlens.families import FAMILIES
    from tests.models import HEADS
    from tests.proofs import proven

    assert "starcoder2" in FAMILIES
    assert [head for name, head in HEADS if name == "starcoder2"] == ["language_model", "classifier"]
    found = proven("starcoder2", "language_model")
    assert [found[name] for name in ("mlp_post", "mlp_out", "adds up")] == ["`mlp.c_proj`", "`mlp.c_proj`", "yes"]


RECIPES = {recipe.__name__: recipe for recipe in (operator, saliency, kind, gate, family)}


def look(name, root):
    """None where a recipe has done what it says, else what went wrong."""
    for module in [each for each in sys.modules if each.partition(".")[0] in ("neuronlens", "tests")]:
        del sys.modules[module]
    sys.path[0] = root
    try:
        RECIPES[name]()
    except Exception:  # whatever it is, it is what the test is told; without its diff each recipe has to fail
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    here, *copies = sys.argv[1:]
    pairs = [copy.split("=", 1) for copy in copies]
    json.dump({name: [look(name, copy), look(name, here)] for name, copy in pairs}, sys.stdout)
