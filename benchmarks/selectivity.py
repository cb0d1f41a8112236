"""`python -m benchmarks.selectivity`: how selectively each method edits, on the example's models, printed and written to two files.

benchmarks/selectivity.json holds every number, benchmarks/selectivity.md the table that the README quotes. Each split has labelled rows of
its own, drawn as the example's are and seen by no model before. On each everything is fitted, chosen on validation rows and measured on
test rows, at matched drops of the target (`neuronlens.evaluation.frontier`) and at each family's own best setting
(`neuronlens.evaluation.choice`).

The splits share models and auxiliary text, no row. So the interval of a mean over splits says what other rows would give for these models:
its limits are as far from it as the root of the splits' squared distances to their own, over the number of splits. Of perplexity, whose
documents are the same in each, they are the mean of the splits' own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.selectivity_tables import Row, markdown, readings, write_results
from neuronlens.activations.ordinary import read_ordinary
from neuronlens.activations.store import read_activations
from neuronlens.artifact import library_versions, read_json, read_table, write_table
from neuronlens.checkpoint import Checkpoint, open_checkpoint
from neuronlens.config import Config, TunedParams
from neuronlens.dataset import Dataset, read_dataset, read_documents
from neuronlens.evaluation.choice import FAMILIES, choose
from neuronlens.evaluation.contrasts import contrasts_table
from neuronlens.evaluation.frontier import frontier_tables, walked
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.methods import Method, by_place, distinct
from neuronlens.evaluation.scoring import RowScores, score_rows
from neuronlens.evaluation.text import document_losses
from neuronlens.example import Example, make_example
from neuronlens.example.corpus import generate
from neuronlens.params import load_config
from neuronlens.ranges.fit import candidate_ranges, sweep_ranges
from neuronlens.ranges.leace import Erasure, fit_erasures
from neuronlens.ranges.selection import Ranges
from neuronlens.ranges.statistics import SiteStatistics, fit_statistics
from neuronlens.stages import run_stage

RESULTS = Path(__file__).with_name("selectivity.json")
MODELS = ("classifier", "language_model")
SEEDS = (0, 1, 2)
SITES = ("resid_post.last", "resid_post.middle")
PROMPT = "{text} Topic:"
ROWS = {"fit": 240, "validation": 80, "test": 200}
"""Of each concept, by split."""
_SKETCH = {"fit": 20, "validation": 10, "test": 10}
_FRESH = 1_000_003  # far from any seed that an example is made with

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
MEASURED = (
    *("target_accuracy_drop", "complement_accuracy_drop", "selectivity", "confidence_selectivity"),
    "log_perplexity_ratio",
)


def _belongs(family: str) -> Callable[[Method], bool]:
    if family == "leace":
        return lambda method: isinstance(method.ranges, Erasure)
    return FAMILIES.get(family) or (lambda method: method.role == family)


COMPARED = {name: _belongs(name) for name in BEST if name not in CONTROLS}


@dataclass(frozen=True)
class Findings:
    """Rows of one model and split; each also names its `site`.

    Attributes:
        matched: `method` minus `against` at a target drop: selectivity and log perplexity with limits, mean over concepts.
        frontier: drop of the complement per family and concept at a target drop.
        best: what the validation rows chose per family and concept, measured on the test rows.
        contrasts: those choices against each other, with limits.
    """

    matched: list[Row]
    frontier: list[Row]
    best: list[Row]
    contrasts: list[Row]


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


def compare(config: Config, audit: Path) -> Findings:
    """Run the stages up to extraction into the folder `audit`, then every method on validation and on test rows."""
    for stage in ("prepare", "extract"):
        run_stage(stage, config, audit)
    checkpoint, dataset = open_checkpoint(config.checkpoint), read_dataset(audit / "prepare")
    candidates, controls = _methods(config, audit)
    tried, tried_at = _scores(checkpoint, dataset, candidates, config, "validation")
    chosen = _chosen(candidates, tried, tried_at)
    tuned = [candidates[i] for (_, _, family), i in chosen.items() if family == "tuned"]
    controls = [method for method in controls if any(method.mirrors(other) for other in tuned)]
    # test rows see only what the validation rows have put on a path or chosen
    paths = walked(candidates, tried, tried_at, COMPARED)
    needed = sorted({*chosen.values(), *(i for path in paths.values() for i in path)})
    methods = [candidates[i] for i in needed] + controls
    judged, places = _scores(checkpoint, dataset, methods, config, "test")
    losses = _losses(checkpoint, methods, config)

    tables = [
        frontier_tables(
            methods[: len(needed)],
            (tried, [tried_at[i] for i in needed]),
            (judged, places[: len(needed)]),
            losses,
            resamples=config.evaluate.bootstrap,
            seed=config.seed,
            families={name: COMPARED[name] for name in (family, *against)},
            family=family,
            against=against,
        )
        for family, against in (("tuned", [name for name in COMPARED if name != "tuned"]), ("paper", ["whole"]))
    ]
    matched = [
        {"method": family} | row
        for family, (_, table) in zip(("tuned", "paper"), tables, strict=True)
        for row in table.to_pylist()
    ]

    selected = {key: places[needed.index(i)] for key, i in chosen.items()}
    for i, control in enumerate(controls, start=len(needed)):
        assert isinstance(control.ranges, Ranges)
        selected[str(control.ranges.site), control.ranges.concept, f"tuned/{control.ranges.kind}"] = places[i]
    edits: dict[tuple[str, str], dict[str, int]] = {}
    for (site, concept, family), place in selected.items():
        edits.setdefault((site, family), {})[concept] = place
    names = {key: candidates[i].name for key, i in chosen.items()}  # a control's setting is that of what it mirrors
    best = [
        {"site": site, "concept": concept, "family": family, "setting": names.get((site, concept, family), family)}
        | _measured(judged, losses, concept, place)
        for (site, concept, family), place in selected.items()
    ]
    return Findings(matched, tables[0][0].to_pylist(), best, contrasts_table(judged, edits).to_pylist())


def _methods(config: Config, audit: Path) -> tuple[list[Method], list[Method]]:
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


def _scores(
    checkpoint: Checkpoint, dataset: Dataset, methods: Sequence[Method], config: Config, split: str
) -> tuple[RowScores, list[int]]:
    """Scores of the edits that differ, and the place of each method in them, from 1."""
    different, index = distinct(methods)
    edits = [method.edit(config.extract.pooling) for method in different]
    batch = config.extract.batch_tokens
    scores = score_rows(checkpoint, dataset, edits, split=split, batch_tokens=batch, text=config.dataset)
    return scores, [i + 1 for i in index]


def _losses(checkpoint: Checkpoint, methods: Sequence[Method], config: Config) -> Losses | None:
    if config.evaluate.auxiliary is None or checkpoint.kind != "language_model":
        return None
    documents = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
    edits = [method.edit(config.extract.pooling) for method in distinct(methods)[0]]
    return Losses(*document_losses(checkpoint, documents, edits, max_tokens=config.dataset.max_tokens))


def _chosen(candidates: Sequence[Method], tried: RowScores, places: Sequence[int]) -> dict[tuple[str, str, str], int]:
    """(site, concept, family) -> place of the candidate that the validation rows choose."""
    found = {}
    for (site, concept), own in by_place(candidates).items():
        rows = dict(zip(own, measure(tried, concept, [places[i] for i in own]), strict=True))
        for family, belongs in COMPARED.items():
            members = [i for i in own if belongs(candidates[i])]
            columns = (
                np.array([rows[i][name] for i in members], dtype=np.float64)
                for name in ("selectivity", "confidence_selectivity")
            )
            found[site, concept, family] = members[choose([candidates[i] for i in members], *columns)]
    return found


def _measured(scores: RowScores, losses: Losses | None, concept: str, place: int) -> Row:
    (row,) = measure(scores, concept, [place])
    found = {name: row[name] for name in MEASURED[:-1]}
    change = None if losses is None else float((losses.losses[place] - losses.losses[0]).sum() / losses.predicted.sum())
    return found | {"log_perplexity_ratio": change}


def combine(runs: Mapping[tuple[str, int], Findings]) -> dict[str, list[Row]]:
    """Means over splits, and over concepts where there are several.

    Args:
        runs: (model, seed) -> findings.

    Returns:
        matched: value and limits of each split, their means, and how many (concept, split) pairs reach the drop, by both methods and by
            either.
        frontier: mean drop of the complement, and share of (concept, split) pairs that reach the drop.
        best: mean over concepts and splits, then lowest and highest split; and how often each setting was chosen.
        contrasts: as matched.
    """
    matched = []
    for key, rows in _groups(runs, "matched", ("site", "method", "against", "measure", "target_drop")):
        concepts = [len({row["concept"] for row in runs[key["model"], row["split"]].best}) for row in rows]
        matched.append(
            key
            | {"reached": sum(row["concepts"] for row in rows), "pairs": sum(concepts)}
            | {"method_reaches": sum(row["method_reaches"] for row in rows)}
            | {"other_reaches": sum(row["other_reaches"] for row in rows)}
            | {name: _averaged(rows, name, ("_low", "_high")) for name in ("selectivity", "log_perplexity")}
        )
    frontier = []
    for key, rows in _groups(runs, "frontier", ("site", "family", "measure", "target_drop")):
        reached = [row["complement_drop"] for row in rows if row["reached"]]
        mean = float(np.mean(reached)) if reached else None
        frontier.append(key | {"complement_drop": mean, "reached": len(reached), "pairs": len(rows)})
    best = []
    for key, rows in _groups(runs, "best", ("site", "family")):
        row = key | {"settings": dict(Counter(one["setting"] for one in rows).most_common())}
        for name in MEASURED:
            splits = [
                float(np.mean([one[name] for one in rows if one["split"] == seed]))
                for seed in sorted({one["split"] for one in rows})
                if all(one[name] is not None for one in rows)
            ]
            row[name] = [float(np.mean(splits)), min(splits), max(splits)] if splits else None
        best.append(row)
    contrasts = [
        key | {"difference": _averaged(rows, "", ("low", "high"), "mean")}
        for key, rows in _groups(runs, "contrasts", ("site", "method", "against", "effect"))
    ]
    return {"matched": matched, "frontier": frontier, "best": best, "contrasts": contrasts}


def _groups(
    runs: Mapping[tuple[str, int], Findings], name: str, keys: Sequence[str]
) -> Iterator[tuple[Row, list[Row]]]:
    """Rows that agree in model and keys, over all splits, each naming its split."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for (model, seed), findings in runs.items():
        for row in getattr(findings, name):
            found.setdefault((model, *(row[key] for key in keys)), []).append(row | {"split": seed})
    for values, rows in found.items():
        yield dict(zip(("model", *keys), values, strict=True)), rows


def _averaged(rows: Iterable[Row], name: str, ends: tuple[str, str], value: str | None = None) -> Row | None:
    """Mean of the splits' values, with limits as of other rows or the same documents; None where no split has a value."""
    columns = (value or name, *(f"{name}{end}" for end in ends))
    numbers = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
    numbers = numbers[np.isfinite(numbers).all(axis=1)]
    if not len(numbers):
        return None
    mean = float(numbers[:, 0].mean())
    own = np.abs(numbers[:, 1:] - numbers[:, :1])
    down, up = own.mean(axis=0) if name == "log_perplexity" else np.linalg.norm(own, axis=0) / len(numbers)
    return {"mean": mean, "low": mean - float(down), "high": mean + float(up), "splits": numbers.tolist()}


def draw_rows(example_seed: int, splits: int, rows: Mapping[str, int]) -> list[pa.Table]:
    """Labelled rows for some splits: columns text, label and split. No text is in two of them, nor anywhere in the example.

    Args:
        example_seed: of the example whose models are measured.
        rows: of each concept, by split.
    """
    known = generate(example_seed)
    used = {row.text for row in (*known.audited, *known.training)}.union(known.training_documents, known.auxiliary)
    fresh: dict[str, list[str]] = {}
    for row in generate(example_seed + _FRESH).training:
        if row.text not in used:
            fresh.setdefault(row.label, []).append(row.text)
    names = [name for name, count in rows.items() for _ in range(count)]
    if min(map(len, fresh.values())) < splits * len(names):
        raise ValueError(f"{splits} splits of {len(names)} rows a concept are more than one draw of the corpus holds")
    found = []
    for start in range(0, splits * len(names), len(names)):
        texts = [(text, label) for label, own in sorted(fresh.items()) for text in own[start : start + len(names)]]
        columns = {"text": [text for text, _ in texts], "label": [label for _, label in texts]}
        found.append(pa.table(columns | {"split": names * len(fresh)}))
    return found


def _run(task: tuple[str, int, Path, pa.Table, dict[str, Any]]) -> tuple[tuple[str, int], Findings]:
    """One model and split, in a process of its own."""
    model, seed, folder, rows, changes = task
    torch.set_num_threads(1)  # the processes share the cores
    example = Example(folder)
    checkpoint, auxiliary = {
        "classifier": (example.classifiers[-1], None),
        "language_model": (example.language_models[-1], example.auxiliary),
    }[model]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.parquet"
        write_table(file, rows)
        found = compare(settings(checkpoint, file, auxiliary, seed, **changes), Path(scratch) / "audit")
    print(f"{model}, split {seed}: done", flush=True)
    return (model, seed), found


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sketch: one split, few rows, few resamples")
    parser.add_argument("--example", type=Path, default=Path("data/example"), help="made there if it is missing")
    parser.add_argument("--example-seed", type=int, default=0, help="of the texts and the models in that folder")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the table lies beside it")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    asked = parser.parse_args()
    seeds, rows = (SEEDS[:1], _SKETCH) if asked.quick else (SEEDS, ROWS)
    changes = {"evaluate__bootstrap": 200, "evaluate__auxiliary_rows": 20} if asked.quick else {}
    example = make_example(asked.example, seed=asked.example_seed, progress=print)
    drawn = draw_rows(asked.example_seed, len(seeds), rows)
    tasks = [
        (model, seed, example.folder, table, changes)
        for (seed, table), model in product(zip(seeds, drawn, strict=True), reversed(MODELS))
    ]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        runs = dict(pool.map(_run, tasks))
    report(runs, example, rows, asked.out)


def report(runs: Mapping[tuple[str, int], Findings], example: Example, rows: Mapping[str, int], out: Path) -> None:
    """Print what was found, and write it.

    Args:
        runs: (model, seed) -> findings.
        rows: of each concept, by split.
        out: the JSON file; the table is written beside it.
    """
    seeds = sorted({seed for _, seed in runs})
    found = combine(dict(sorted(runs.items())))
    table = markdown(found, len(seeds), BEST)
    print(table)
    facts = {
        "reading": readings(found["matched"], found["frontier"]),
        "seeds": seeds,
        "rows_per_concept": dict(rows),
        "alternatives": {name: one.model_dump() for name, one in ALTERNATIVES.items()},
        "example": read_json(example.record),
        "versions": library_versions(),
    }
    write_results(out, found, facts)
    out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(f"written to {out} and {out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
