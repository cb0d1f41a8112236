"""What stands around an audit: judged gates, numbers of other audits, changes, a comparison, all of it together."""

from __future__ import annotations

from typing import Any

from neuronlens.report.context import Context, Links, Numbers, Step

HASH = "ab" * 32


def gate(name: str, word: str, margin: float | None = 0.1, **given: Any) -> dict[str, Any]:
    """Judged, of selectivity between 0.4 and 0.6."""
    known = {"gate": name, "rule": "selectivity >= 0.3", "number": "selectivity", "verdict": word, "bound": 0.3}
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "previous": None, "margin": margin}
    return {**known, **numbers, "waived": None, "note": None, **given}


WAIVED = "labels are being corrected (until 2027-01-31)"


def change(quantity: str, value: float, *, concept: str | None = "sports", decided: bool = True, **given: Any) -> Any:
    """A row of comparison.json."""
    spread = abs(value) / 2 if decided else abs(value) * 2 + 0.01
    base = quantity.startswith("base")
    row = {"quantity": quantity, "concept": concept, "site": None if base else "resid_post.1", "before": 0.5, "n": 9}
    row |= {"method": None if base else "tuned", "role": None if base else "chosen", "after": 0.5 + value}
    row |= {"value": value, "low": value - spread, "high": value + spread, "p": 0.01, "adjusted": 0.01}
    return row | given


def numbers(name: str, value: float, **given: Any) -> Numbers:
    measured = {
        f"{kind}{end}": value + shift
        for kind in ("accuracy", "selectivity", "complement_drop")
        for end, shift in (("", 0.0), ("_low", -0.02), ("_high", 0.02))
    }
    return Numbers(name, measured, **given)


def comparison(concept: str = "sports", name: str = "checkpoint-1") -> dict[str, Any]:
    """comparison.json, as far as pages read it."""
    told = {
        "audit": name,
        "checkpoint": {"name": name, "fingerprint": HASH, "kind": "classifier", "model_type": "bert"},
        "trust": {"no_op_difference": 0.0, "dtype": "float32", "device": "cpu", "versions": {"neuronlens": "1"}},
    }
    place = {"site": "resid_post.1", "concept": concept}
    moved = {"neuron": 7, "wasserstein": 1.5, "floor": 0.4, "mean_before": 1.0, "mean_after": 2.0}
    moved |= {"std_before": 1.0, "std_after": 1.0}
    ranges = {"lower_before": -1.0, "upper_before": 3.0, "lower_after": None, "upper_after": None}
    return {
        "audits": [told, told],
        "identical": False,
        "sites": ["resid_post.1"],
        "changes": [change("base_accuracy", -0.2, concept=concept), change("selectivity", 0.1, concept=concept)],
        "drift": [
            {
                **place,
                "n": 9,
                "neurons": 16,
                "median_wasserstein": 0.1,
                "max_wasserstein": 1.5,
                "stray": 0.1,
                "floor": 0.4,
                "beyond_floor": 2,
                "moved": 3,
                "widened": 0,
                "narrowed": 1,
            }
        ],
        "farthest": [{**place, **moved}],
        "movements": [{**place, **moved, **ranges, "unit": 1.0, "tau": 2.0, "state": "vanished"}],
        "ranges": [{**place, "saliency": "d_prime", "top": 0.1, "vanished": 4}],
        "rankings": [
            {**place, "saliency": "d_prime", "rank_biased_overlap": 0.5, "persistence": 0.98, "jaccard": {"0.1": 0.3}}
        ],
        "seed": 0,
    }


def context(name: str = "checkpoint-1", concept: str = "sports") -> Context:
    """All that there can be."""
    before = numbers(name, 0.8, verdict="PASS", link="../before/index.html")
    return Context(
        gates=[
            gate(f"{name} selective", "FAIL", -0.1, number=f"selectivity.{concept}"),
            gate("known", "FAIL", -0.2, waived=WAIVED),
            gate("spared", "PASS", previous=0.25),
        ],
        judged="2026-11-26",
        line=name,
        before=before,
        comparison=comparison(concept, name),
        trend=[before, numbers("now", 0.7, current=True)],
        lineage=[
            Step("checkpoint", HASH),
            Step("extract", HASH, 2048, 8.4, f"computed: {name}", "cd" * 16),
            Step("report", HASH, 100, None, "reused: nothing it depends on has changed"),
        ],
        made={"MLflow run": f"run {name}", "git commit": "0123abc"},
        command=f"neuronlens audit --params 'audits/{name}/audit.yaml'",
        links=Links(
            index="../index.html", audit="index.html", before="../before/index.html", comparison="../../c/x.html"
        ),
    )
