"""The fit: every method that is asked for, once, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from neuronlens.activations.ordinary import write_ordinary
from neuronlens.activations.store import rows_table, shard_path, write_shard
from neuronlens.artifact import read_table, write_table
from neuronlens.config import Config
from neuronlens.dataset import Dataset
from neuronlens.ranges.fit import fit, is_summed_up, sweep_ranges
from neuronlens.ranges.leace import read_erasures
from neuronlens.ranges.rowless import without_rows
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics, summed_statistics
from neuronlens.ranges.tables import (
    examples_table,
    jaccard_table,
    overlap_table,
    polysemanticity_table,
    ranges_table,
    read_ranges,
    statistics_table,
)
from neuronlens.sites import Site
from neuronlens.streaming.summary import Summary, read_summary, write_summary
from tests.ranges.sample import CONCEPTS, SITE, SWEEP, activations, members, same, statistics, tokens


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


def stored(folder, *, summed=False):
    """What `prepare` and `extract` leave: activations of two sites in two shards, and of the first also in place of them a summary."""
    sites = (SITE, Site(2, "mlp_post"))
    found = [activations(seed, per=30) for seed in (0, 1)]
    rows = found[0]
    count = len(rows)
    dataset = Dataset("made", list(range(count)), [f"text {i}" for i in range(count)], rows.concept, rows.split)
    inputs = {name: folder / name for name in ("prepare", "extract")}
    for path in inputs.values():
        path.mkdir()
    write_table(inputs["prepare"] / "dataset.parquet", dataset.to_table())
    half = count // 2
    columns = {
        "row": rows.row,
        "shard": [int(i >= half) for i in range(count)],
        "slot": [i % half for i in range(count)],
        "position": rows.position,
        "tokens": rows.tokens,
        "predicted": rows.predicted,
        "correct": rows.correct,
        "confidence": rows.confidence,
    }
    write_table(inputs["extract"] / "rows.parquet", rows_table(columns))
    for site, part in zip(sites, found, strict=True):
        values = part.values[SITE]
        if summed:
            own = np.flatnonzero([split == "fit" for split in rows.split])
            of = [rows.concept[i] for i in own]
            write_summary(
                inputs["extract"] / f"site={site}", Summary.of(values[:, own], rows.row[own], of, rows.correct[own])
            )
        else:
            write_shard(shard_path(inputs["extract"], site, 0), values[:, :half])
            write_shard(shard_path(inputs["extract"], site, 1), values[:, half:])
    write_ordinary(inputs["extract"], {site: tokens(seed=i) for i, site in enumerate(sites)})
    return inputs, {
        site: (replace(rows, values={site: part.values[SITE]}), i)
        for i, (site, part) in enumerate(zip(sites, found, strict=True))
    }


TABLES = ("statistics", "ranges", "overlap", "polysemanticity", "jaccard", "examples")


@pytest.mark.parametrize("rows", ["correct", "all"])
def test_the_stage_writes_the_tables_of_every_site(tmp_path, rows):
    inputs, sites = stored(tmp_path)
    config = Config.model_validate(
        SWEEP | {"seed": 5, "fit": {"saliency": ["mean_abs", "d_prime"], "rows": rows, "minimum_rows": 24}}
    )
    out = tmp_path / "out"
    out.mkdir()
    facts = fit(config, inputs, out)
    ours = {
        site: fit_statistics(found, site, rows=rows, ordinary=tokens(seed=at), seed=5)
        for site, (found, at) in sites.items()
    }
    assert {path.name for path in out.iterdir()} == {*(f"{name}.parquet" for name in TABLES), "leace.parquet"}
    first = ours[SITE]
    kept = {name: members(sites[SITE][0], name, rows).shape[1] for name in first.concepts}
    assert facts == {
        "rows": kept,
        "sites": [str(site) for site in sorted(ours)],
        "ordinary_tokens": 90,
        "warnings": [f"concept {name!r}: ranges rest on {n} rows, fewer than 24" for name, n in kept.items() if n < 24],
        "seed": 5,
    }
    assert 0 < len(facts["warnings"]) < 3 or rows == "all", "one concept has fewer, one has not"
    asked = sorted(ours)
    rankings = [*list(product(("mean_abs", "d_prime"), (0.2, 0.5))), ("d_prime", 0.3), ("random", 0.3)]
    expected = {
        "statistics": [statistics_table(ours[site], ["d_prime"]) for site in asked],
        "ranges": [ranges_table(sweep_ranges(ours[site], config)) for site in asked],
        "overlap": [overlap_table(ours[site]) for site in asked],
        "polysemanticity": [polysemanticity_table(ours[site], rankings) for site in asked],
        "jaccard": [jaccard_table(ours[site], rankings) for site in asked],
        "examples": [examples_table(ours[site]) for site in asked],
    }
    for name in TABLES:
        assert read_table(out / f"{name}.parquet").equals(pa.concat_tables(expected[name])), name
    erasures = read_erasures(out / "leace.parquet")
    assert [(part.site, part.concept) for part in erasures] == [(site, name) for site in asked for name in CONCEPTS]


def test_the_stage_without_the_erasure_writes_none(tmp_path):
    inputs, _ = stored(tmp_path)
    asked = {"interventions": {"controls": ["other_concept"], "tuned": None}}
    out = tmp_path / "out"
    out.mkdir()
    fit(Config.model_validate(asked), inputs, out)
    assert not (out / "leace.parquet").exists()


def test_notes_of_every_site_reach_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("neuronlens.ranges.saliency.PROBE_TOLERANCE", 0.0)
    inputs, sites = stored(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    asked = {"fit": {"saliency": ["probe"], "minimum_rows": 2}, "interventions": {"controls": [], "tuned": None}}
    facts = fit(Config.model_validate(asked), inputs, out)
    assert facts["warnings"] == [
        f"site {site}: the probe that ranks neurons had not settled after 100 passes" for site in sorted(sites)
    ]


@pytest.mark.parametrize("rows", ["correct", "all"])
def test_the_stage_makes_what_it_can_of_summaries_and_says_what_it_left_out(tmp_path, rows):
    inputs, sites = stored(tmp_path, summed=True)
    assert is_summed_up(inputs["extract"])
    out = tmp_path / "out"
    out.mkdir()
    config = Config.model_validate({"fit": {"minimum_rows": 2, "rows": rows}, "seed": 3})
    facts = fit(config, inputs, out)
    possible, notes = without_rows(config)
    assert facts["warnings"] == notes
    assert not (out / "leace.parquet").exists()
    assert read_table(out / "statistics.parquet").num_rows == 2 * 3 * 12
    found = read_ranges(out / "ranges.parquet")
    assert {part.kind for part in found} == {"gaussian", "full", "random_neurons", "other_concept"}
    for site, (activations_, at) in sites.items():
        how = {"rows": rows, "ordinary": tokens(seed=at), "seed": 3}
        summed = summed_statistics(read_summary(inputs["extract"] / f"site={site}"), site, CONCEPTS, **how)
        expected = sweep_ranges(summed, possible)
        assert all(same(a, b) for a, b in zip([part for part in found if part.site == site], expected, strict=True))
        kept = fit_statistics(activations_, site, **how)
        own = [part for part in found if part.site == site and part.kind == "gaussian" and part.saliency == "mean_abs"]
        one = next(part for part in own if part.concept == "b" and part.tau == 2.5)
        np.testing.assert_allclose(
            one.lower, fit_ranges(kept, "b", saliency="mean_abs", top=one.top, tau=2.5).lower, rtol=1e-6
        )
