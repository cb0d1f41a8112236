"""What a whole audit costs, in plain forward passes over its rows, and beside the reference program's algorithm.

Four concepts, the ranges and the whole neurons of each, as in the paper, on GPT-2-small's config with random weights and random tokens.
Counts are a twentieth of the paper's; what does not grow with them (loading weights, the check of the short cuts on four rows) is left out
and said apart.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks import reference
from benchmarks.measure import Ratio
from benchmarks.words import word_tokenizer
from neuronlens.activations.batching import collate, split_batches
from neuronlens.activations.memory import batch_budget
from neuronlens.artifact import read_table, write_table
from neuronlens.checkpoint import open_checkpoint
from neuronlens.config import Config
from neuronlens.evaluation import scoring
from neuronlens.params import load_config
from neuronlens.plan import plan
from neuronlens.stages import release_memory, run_stage

TAU, TOP = 2.5, 0.3
_AGAINST = "GPT-2 small: the reference program's algorithm, over a whole audit"


@dataclass(frozen=True)
class Size:
    """How much is audited.

    Attributes:
        concepts: C.
        fit, test: rows of each concept.
        documents: of ordinary text.
        tokens: of each row and document; None draws lengths of 66 tokens in the mean.
        reference_concepts: of how many the reference's part is run; its work is the same for each.
        rounds: of the comparison with plain passes.
    """

    concepts: int = 4
    fit: int = 20
    test: int = 5
    documents: int = 10
    tokens: int | None = 128
    reference_concepts: int = 1
    rounds: int = 4


def run(size: Size | None = None, config: GPT2Config | None = None) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    given = size or Size()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config or GPT2Config()).eval()
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(model, given, Path(folder))
        yield "GPT-2 small: a whole audit, over plain forward passes over its rows", audit.over_plain(given.rounds)
        yield f"{_AGAINST}, {given.tokens} tokens a text", audit.reference()
    shorter = Size(**{**vars(given), "tokens": None})
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(model, shorter, Path(folder))
        yield f"{_AGAINST}, 66 tokens a text", audit.reference()


class Audit:
    """Audits of one workload at the last and the middle block, with and without perplexity."""

    def __init__(self, model: GPT2LMHeadModel, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        vocabulary = model.config.vocab_size
        self.workload = reference.random_workload(
            concepts=size.concepts,
            fit=size.fit,
            test=size.test,
            documents=size.documents,
            tokens=size.tokens,
            vocabulary=vocabulary,
        )
        # NeuronLens sets a fifth of the fit rows aside unless the data names validation rows, of which the reference knows nothing
        split = list(self.workload.split)
        split[split.index("fit")] = "validation"
        self.workload = replace(self.workload, split=split)
        model.save_pretrained(folder / "checkpoint")
        word_tokenizer(vocabulary, model.config.n_positions).save_pretrained(folder / "checkpoint")
        dataset = self.workload.dataset()
        table = dataset.to_table().rename_columns(["row", "text", "label", "split"])
        write_table(folder / "rows.parquet", table.select(["text", "label", "split"]))
        (folder / "documents.txt").write_text("\n".join(self.workload.texts()), encoding="utf-8")
        self.layers = (model.config.n_layer - 1, model.config.n_layer // 2)

    def config(self, layer: int, perplexity: bool) -> Config:
        """Of the audit at a block."""
        params = self.workload.params()
        assert params.labels is not None
        labels = ", ".join(f"{name}: '{text}'" for name, text in params.labels.items())
        given = {
            "preset": "official",
            "checkpoint.path": self.folder / "checkpoint",
            "dataset.path": self.folder / "rows.parquet",
            "dataset.prompt": "'{text}'",
            "dataset.labels": f"{{{labels}}}",
            "dataset.max_tokens": params.max_tokens,
            "extract.sites": f"resid_post.{layer}",
            "fit.rows": "all",
            "interventions.tau": TAU,
            "interventions.top": TOP,
            "evaluate.auxiliary": self.folder / "documents.txt" if perplexity else "null",
            "evaluate.auxiliary_rows": len(self.workload.documents),
        }
        return load_config(None, [f"{key}={value}" for key, value in given.items()])

    def seconds(self, layer: int, perplexity: bool) -> tuple[float, float]:
        """Of an audit from rows to results, and of the check that it leaves out."""
        config, out = self.config(layer, perplexity), self.folder / f"{layer}-{perplexity}"
        checked: list[float] = []
        check = scoring.check_fidelity

        def timed(*args: object, **how: object) -> tuple[float, float, float]:
            start = time.process_time()
            found = check(*args, **how)
            checked.append(time.process_time() - start)
            return found

        with open_weights(config), patch.object(scoring, "check_fidelity", timed):
            run_stage("prepare", config, out, force=True)
            start = time.process_time()
            for stage in ("extract", "fit", "evaluate"):
                run_stage(stage, config, out, force=True)
            spent = time.process_time() - start
        return spent - sum(checked), sum(checked)

    def plain(self) -> float:
        """Seconds of the blocks alone over all rows, packed as the audit packs them."""
        config = self.config(self.layers[0], False)
        with open_weights(config) as model, torch.inference_mode():
            encoded = self.workload.rows
            batches = split_batches(
                [len(ids) for ids in encoded], self.workload.split, batch_budget(config.extract.batch_tokens, model)
            )
            start = time.process_time()
            for rows in (rows for members in batches.values() for rows in members):
                batch = collate(encoded, rows, pad_id=0, device=model.device)
                model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            return time.process_time() - start

    def over_plain(self, rounds: int) -> list[Ratio]:
        """Audits in plain passes."""
        kinds = [(layer, perplexity) for layer in self.layers for perplexity in (False, True)]
        found: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
        times: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
        checks = []
        self.plain()
        before = self.plain()
        for _ in range(rounds):
            for kind in kinds:
                # what an audit is held against is measured before and behind it: a machine's speed drifts
                spent, check = self.seconds(*kind)
                behind = self.plain()
                plain, before = (before + behind) / 2, behind
                found[kind].append(spent / plain)
                times[kind].append(spent)
                checks.append(check / plain)
        named = {self.layers[0]: "last block", self.layers[1]: "middle block"}
        ratios = [
            _ratio(f"{named[layer]}, {'with' if perplexity else 'without'} perplexity", found[kind], times[kind])
            for kind in kinds
            for layer, perplexity in [kind]
        ]
        for kind, ratio in zip(kinds, list(ratios), strict=True):
            with open_weights(self.config(*kind)):
                expected = plan(self.config(*kind)).passes
            name = f"{ratio.name}, over the plan's {expected:.2f}"
            ratios.append(_ratio(name, [value / expected for value in found[kind]]))
        return [*ratios, _ratio("left out: the check of the short cuts", checks)]

    def reference(self) -> list[Ratio]:
        """The reference's algorithm, padded as it pads and not padded, over an audit with perplexity at the last block."""
        layer = self.layers[0]
        config = self.config(layer, True)
        ours, _ = self.seconds(layer, True)
        own = self.folder / f"{layer}-True" / "evaluate" / "results.parquet"
        results = {(row["concept"], row["range"]): row for row in read_table(own).to_pylist()}
        share = self.size.reference_concepts / self.size.concepts
        found = []
        with open_weights(config) as model:
            for name, pad_to in (("padded to 408 tokens", 408), ("padded to the longest of a batch", None)):
                settings = reference.Settings(
                    layer, TOP, TAU, pad_to=min(pad_to, model.config.n_positions) if pad_to else None
                )
                start = time.process_time()
                outcomes = reference.audit(model, self.workload, settings, self.size.reference_concepts)
                spent = (time.process_time() - start) / share
                for outcome in outcomes:
                    _compare(outcome, results)
                found.append(_ratio(name, [spent / ours], [spent]))
        return found


@contextlib.contextmanager
def open_weights(config: Config) -> Iterator[PreTrainedModel]:
    """The weights are loaded before and let go behind."""
    try:
        yield open_checkpoint(config.checkpoint).model
    finally:
        release_memory()


def _compare(outcome: reference.ConceptResult, results: dict[tuple[str, str], dict[str, float]]) -> None:
    """Both say the same, or their times are not worth comparing."""
    for kind, theirs in (("gaussian", outcome.range), ("full", outcome.full)):
        ours = results[outcome.concept, kind]
        for group in ("target", "complement"):
            np.testing.assert_allclose(ours[f"{group}_accuracy"], getattr(theirs, f"{group}_accuracy"), atol=1e-12)
            np.testing.assert_allclose(ours[f"{group}_confidence"], getattr(theirs, f"{group}_confidence"), rtol=1e-4)
        np.testing.assert_allclose(ours["perplexity"], theirs.perplexity, rtol=1e-5)


def _ratio(name: str, values: list[float], seconds: list[float] | None = None) -> Ratio:
    middle = None if seconds is None else float(np.median(seconds))
    return Ratio(name, float(np.median(values)), min(values), max(values), middle)
