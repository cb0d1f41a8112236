"""An evaluation as it is planned, and its parts: groups of batches whose rows, documents or questions are scored under every edit.

The parts on validation rows come first: what they say decides which methods the others look at. Everything is planned from the inputs and
from these, so that whoever plans it again, later or on another machine, gets the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from neuronlens.activations.hidden import KeptBatch, kept_key, take_over
from neuronlens.activations.memory import batch_budget
from neuronlens.artifact import hash_value, read_manifest
from neuronlens.checkpoint import device_of, open_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import read_dataset
from neuronlens.evaluation.choice import FAMILIES, choose, members
from neuronlens.evaluation.frontier import walked
from neuronlens.evaluation.joint import JointMethod, JointScores, joint_methods
from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.measure import SELECTIVITY, measure
from neuronlens.evaluation.methods import Method, by_place, distinct, read_methods
from neuronlens.evaluation.questions import asked_questions, question_columns, score_questions
from neuronlens.evaluation.reconstruction import Quality, measure_quality, reconstruction_rows, reconstructions
from neuronlens.evaluation.scoring import PartScores, RowScorer, RowScores
from neuronlens.evaluation.text import TextScorer, perplexity_columns
from neuronlens.interventions.kinds import AnyEdit, Edit, Joint
from neuronlens.interventions.latents import Reconstruction
from neuronlens.parts import check_planned, go_on
from neuronlens.sites import expand_sites, layer_count
from neuronlens.text_files import read_documents

VALIDATION, TEST, JOINT, TEXT, QUESTIONS = "validation", "test", "joint", "text", "questions"
RECONSTRUCTED = "reconstructed"
_MOST = 32  # parts of a kind; an interruption costs a thirtieth of it
_SCORES = "scores.npz"


@dataclass(frozen=True)
class Scored:
    """Scores of some methods on the rows of a split. Methods that do the same to the model are run once.

    Attributes:
        methods: as given.
        edits: that differ.
        places: index of each method's edit in the scores, from 1.
        scores: of the edits.
    """

    methods: Sequence[Method]
    edits: Sequence[AnyEdit]
    places: Sequence[int]
    scores: RowScores

    def of(self, methods: Sequence[Method]) -> list[int]:
        """Index of some of the methods' edits in the scores."""
        known = {id(method): place for method, place in zip(self.methods, self.places, strict=True)}
        return [known[id(method)] for method in methods]

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Identity and measured columns of every method."""
        rows: list[dict[str, Any]] = [method.identity | {"seed": seed} for method in self.methods]
        for (_, concept), places in by_place(self.methods).items():
            found = measure(self.scores, concept, [self.places[i] for i in places])
            for i, columns in zip(places, found, strict=True):
                rows[i] |= columns
        return rows


@dataclass(frozen=True)
class Judged:
    """What the validation rows decided.

    Attributes:
        chosen: (site, concept, family) -> place of the candidate that was chosen.
        methods: that test rows see: the sweep, those candidates that were chosen or lie on a path, and the controls of what was chosen.
        joint: what was chosen at the best sites, to be edited together.
    """

    chosen: Mapping[tuple[str, str, str], int]
    methods: Sequence[Method]
    joint: Sequence[JointMethod]


class Evaluation:
    """A planned evaluation.

    Attributes:
        known: all methods that the stage `fit` prepared.
        candidates: those among which validation rows choose.
        judged: what they chose; None until `judge` has been called.
    """

    def __init__(self, config: Config, inputs: Mapping[str, Path]) -> None:
        """Plan it.

        Args:
            inputs: `prepare` and `fit`, the folders of those stages.
        """
        self.config = config
        self.checkpoint, self.dataset = open_checkpoint(config.checkpoint), read_dataset(inputs["prepare"])
        self.known = read_methods(inputs["fit"], config)
        self.candidates = (
            [method for method in self.known if not method.is_control] if config.interventions.tuned else []
        )
        self.judged: Judged | None = None
        self.asked = asked_questions(self.checkpoint, config)
        self._batch_tokens = batch_budget(config.extract.batch_tokens, self.checkpoint.model)
        self._kept = take_over(kept_key(config, self.checkpoint, self.dataset, self._batch_tokens)) or {}
        self._model = Lock()  # its hooks belong to one edit at a time

    @property
    def validates(self) -> bool:
        """Whether validation rows are scored."""
        return bool(self.candidates) and VALIDATION in self.dataset.split

    def judge(self, tried: Scored | None) -> Judged:
        """Choose, and with that settle what is tested.

        Args:
            tried: the candidates on validation rows; None where there are none, and the first of each family is chosen.
        """
        candidates, validated = self.candidates, [] if tried is None else tried.rows(0)
        chosen = _choices(candidates, validated)
        mirrored = [candidates[i] for (_, _, family), i in chosen.items() if family == "tuned"]
        walks = {} if tried is None else walked(candidates, tried.scores, tried.places)
        of_use = {id(candidates[i]) for i in (*chosen.values(), *chain(*walks.values()))}
        methods = [
            method
            for method in self.known
            if method.role == "sweep"
            or id(method) in of_use
            or (method.is_control and any(method.mirrors(other) for other in mirrored))
        ]
        joint = joint_methods(candidates, chosen, validated, self.config.interventions.joint)
        self.judged = Judged(chosen, methods, joint)
        return self.judged

    def names(self, kind: str) -> list[str]:
        """Of the parts of a kind, in order; none where nothing of it is asked for. They name what their bytes may depend on beside the
        inputs.
        """
        groups = self._groups(kind)
        how = hash_value(
            [device_of(self.checkpoint), str(self.checkpoint.model.dtype), self._batch_tokens, len(groups)]
        )[:8]
        return [f"{how}-{kind}-{i:05d}" for i in range(len(groups))]

    def make(self, name: str, out: Path) -> dict[str, object]:
        """Score a part into a folder.

        Returns:
            Facts: for rows, how true the short cuts are.

        Raises:
            NeuronLensError: this machine plans other parts.
        """
        kind, place = name.split("-")[1], int(name.rpartition("-")[2])
        check_planned(name, self.names(kind))
        some = self._groups(kind)[place]
        facts: dict[str, object] = {}
        with self._model:
            go_on()
            if kind == RECONSTRUCTED:
                found = self._reconstruct()
            elif kind in (VALIDATION, TEST, JOINT):
                scorer = self._scorer(kind)
                found = vars(scorer.score(some))
                if place == 0:
                    facts = {"fidelity": [*scorer.fidelity()]}
            elif kind == TEXT:
                assert self._texts is not None
                columns, losses = self._texts.score(some)
                found = {"columns": columns, "losses": losses}
            else:
                assert self.asked is not None
                edits: dict[str, Sequence[AnyEdit]] = {"correct": self._edits(self._methods(TEST))}
                edits |= {JOINT: self._joint_edits} if self._joint_edits else {}
                found = {
                    name: score_questions(self.checkpoint, self.asked, own, batch_tokens=self._batch_tokens)
                    for name, own in edits.items()
                }
        np.savez(out / _SCORES, **found)
        return facts

    def scored(self, kind: str, parts: Mapping[str, Path]) -> Scored:
        """What the parts of a split say.

        Args:
            parts: name -> folder.
        """
        methods = self._methods(kind)
        _, index = distinct(methods)
        edits = self._scorer(kind).interventions
        return Scored(methods, edits, [i + 1 for i in index], self._scores(kind, parts))

    def joint(self, parts: Mapping[str, Path]) -> JointScores | None:
        """What the parts say of joint edits; None where there are none."""
        assert self.judged is not None
        methods = self.judged.joint
        if not methods:
            return None
        losses, text = self._losses(parts), None
        if losses is not None:
            text = losses.losses[[0, *range(self._alone + 1, len(losses.losses))]], losses.predicted
        answers = None if self.asked is None else _read(parts[self.names(QUESTIONS)[0]])[JOINT]
        return JointScores(
            methods,
            self._scores(JOINT, parts),
            perplexity_columns(text, len(methods)),
            question_columns(answers, len(methods)),
        )

    def autoencoders(self, parts: Mapping[str, Path]) -> list[dict[str, Any]]:
        """What the parts say of the autoencoders whose latents are edited (see `reconstruction_rows`)."""
        if not self._reconstructions:
            return []
        read = _read(parts[self.names(RECONSTRUCTED)[0]])
        scores, losses = (
            self._reconstructed_rows.together([PartScores(**_starting(read, "rows_"))], (0.0, 0.0, 0.0)),
            None,
        )
        if self._texts is not None:
            losses = Losses(*self._texts.together([(read["columns"], read["losses"])]))
        return reconstruction_rows(self._reconstructions, Quality(**_starting(read, "quality_")), scores, losses)

    def losses(self, parts: Mapping[str, Path]) -> Losses | None:
        """What the parts of the auxiliary text say of edits of single sites; None where there is none."""
        found = self._losses(parts)
        return None if found is None else replace(found, losses=found.losses[: self._alone + 1])

    def answers(self, parts: Mapping[str, Path]) -> Any:
        """[M + 1, Q] which questions were answered right; None where none were asked."""
        return None if self.asked is None else _read(parts[self.names(QUESTIONS)[0]])["correct"]

    def _reconstruct(self) -> dict[str, Any]:
        rows, model = self._reconstructed_rows, self.checkpoint.model
        quality = measure_quality(model, self._reconstructions, rows.collated())
        found = {f"rows_{name}": part for name, part in vars(rows.score(range(len(rows.batches)))).items()}
        found |= {f"quality_{name}": part for name, part in vars(quality).items()}
        if self._texts is not None:
            texts = replace(self._texts, interventions=self._reconstructions)
            found["columns"], found["losses"] = texts.score(range(len(texts.batches)))
        return found

    def _scores(self, kind: str, parts: Mapping[str, Path]) -> RowScores:
        names = self.names(kind)
        fidelity = read_manifest(parts[names[0]])["facts"]["fidelity"]
        return self._scorer(kind).together([PartScores(**_read(parts[name])) for name in names], tuple(fidelity))

    def _losses(self, parts: Mapping[str, Path]) -> Losses | None:
        """Of edits of single sites, then of joint ones."""
        if self._texts is None:
            return None
        found = [_read(parts[name]) for name in self.names(TEXT)]
        return Losses(*self._texts.together([(part["columns"], part["losses"]) for part in found]))

    def _methods(self, kind: str) -> Sequence[Method]:
        if kind == VALIDATION:
            return self.candidates
        assert self.judged is not None
        return self.judged.methods

    def _edits(self, methods: Sequence[Method]) -> list[Edit]:
        return [method.edit(self.config.extract.pooling) for method in distinct(methods)[0]]

    @property
    def _alone(self) -> int:
        """How many edits of single sites test rows and text see."""
        return len(self._test.interventions)

    @cached_property
    def _joint_edits(self) -> list[Joint]:
        assert self.judged is not None
        return [method.edit(self.config.extract.pooling) for method in self.judged.joint]

    @cached_property
    def _reconstructions(self) -> list[Reconstruction]:
        sites = expand_sites(self.config.extract.sites, layer_count(self.checkpoint.config))
        return reconstructions(self.checkpoint.model, sites)

    @cached_property
    def _reconstructed_rows(self) -> RowScorer:
        return self._rows(TEST, self._reconstructions)

    def _scorer(self, kind: str) -> RowScorer:
        if kind == JOINT:
            return self._joint
        return self._validation if kind == VALIDATION else self._test

    @cached_property
    def _validation(self) -> RowScorer:
        return self._rows(VALIDATION, self._edits(self.candidates))

    @cached_property
    def _test(self) -> RowScorer:
        return self._rows(TEST, self._edits(self._methods(TEST)))

    @cached_property
    def _joint(self) -> RowScorer:
        return self._rows(TEST, self._joint_edits)

    def _rows(self, split: str, edits: Sequence[AnyEdit]) -> RowScorer:
        kept: Sequence[KeptBatch] = self._kept.get(split, ())
        return RowScorer.of(
            self.checkpoint,
            self.dataset,
            edits,
            split=split,
            scoring=self.config.evaluate.scoring,
            batch_tokens=self._batch_tokens,
            text=self.config.dataset,
            kept=kept,
        )

    @cached_property
    def _texts(self) -> TextScorer | None:
        asked = self.config.evaluate
        if asked.auxiliary is None or self.checkpoint.kind != "language_model":
            return None
        documents = read_documents(asked.auxiliary, asked.auxiliary_rows)
        edits: list[AnyEdit] = [*self._edits(self._methods(TEST)), *self._joint_edits]
        return TextScorer.of(self.checkpoint, documents, edits, max_tokens=self.config.dataset.max_tokens)

    def _groups(self, kind: str) -> list[range]:
        """Batches of each part of a kind."""
        if kind == RECONSTRUCTED:
            return [range(1)] if self._reconstructions else []
        if kind == QUESTIONS:
            return [] if self.asked is None else [range(1)]
        if kind == JOINT and not self._joint_edits:
            return []
        scorer = self._texts if kind == TEXT else self._scorer(kind)
        count = 0 if scorer is None else len(scorer.batches)
        size = -(-count // _MOST)
        return [range(start, min(start + size, count)) for start in range(0, count, size)] if count else []


def _read(folder: Path) -> dict[str, Any]:
    with np.load(folder / _SCORES) as found:
        return dict(found)


def _starting(read: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): part for name, part in read.items() if name.startswith(prefix)}


def _choices(candidates: Sequence[Method], scores: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], int]:
    """(site, concept, family) -> place of the candidate that the validation rows choose; the first where there are none.

    Args:
        scores: what they say of each candidate; empty where there are none.
    """
    found: dict[tuple[str, str, str], int] = {}
    for site, concept in by_place(candidates):
        for family in FAMILIES:
            own = members(candidates, site, concept, family)
            if own:
                selectivity, confidence = (
                    np.array([np.nan if not scores or scores[i][name] is None else scores[i][name] for i in own])
                    for name in SELECTIVITY.values()
                )
                found[site, concept, family] = own[choose([candidates[i] for i in own], selectivity, confidence)]
    return found
