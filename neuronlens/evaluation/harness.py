"""Tasks of lm-evaluation-harness on the unedited and the edited model: what an edit costs beside what it was meant for."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from neuronlens.checkpoint import Checkpoint
from neuronlens.errors import CheckpointError, UnreachableError, UserError
from neuronlens.hub import hub_errors
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import AnyEdit, parts_of

_BOOTSTRAP = 1000  # resamples for metrics that are no means


@dataclass(frozen=True)
class TaskMetric:
    """A metric of a task, unedited and edited.

    Attributes:
        task, metric, filter: by the harness's names.
        n: documents; None of a group of tasks.
        before, after: its value, with standard errors as the harness computes them; None where it has none.
        difference: after minus before.
        difference_stderr: paired, document by document; None where the metric is no mean over documents.
    """

    task: str
    metric: str
    filter: str
    n: int | None
    before: float
    before_stderr: float | None
    after: float
    after_stderr: float | None
    difference: float
    difference_stderr: float | None


def run_tasks(
    checkpoint: Checkpoint,
    edits: Sequence[AnyEdit],
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include_path: Path | None = None,
    batch_size: int = 8,
) -> list[TaskMetric]:
    """Run tasks on the model as it is, and edited.

    Args:
        edits: all made together, in order (see `neuronlens.interventions.edit.edit`).
        tasks: names or patterns; a group stands for its tasks.
        limit: first documents of each task; all unless told otherwise.
        include_path: folder with further tasks in YAML. Python that they name is run, as the harness does.
        batch_size: requests a call of the model.

    Raises:
        CheckpointError: the model is a classifier.
        UserError: the harness is not installed, or has no such task.
        UnreachableError: the data of a task are neither here nor to be had.
    """
    if checkpoint.kind == "classifier":
        raise CheckpointError(
            "is a classifier, and the harness asks language models",
            where=str(checkpoint.path),
            cure="Name a language model.",
        )
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from neuronlens.evaluation.harness_model import HarnessModel
    except ModuleNotFoundError as error:
        raise UserError(
            f"needs lm-evaluation-harness ({error})", cure="Install it: pip install 'neuronlens[harness]'."
        ) from None
    everywhere = all(part.positions == "all" for item in edits for part in parts_of(item))
    model = HarnessModel(checkpoint, batch_size, whole_texts=everywhere)
    # the harness prints what it does, and stdout is for results
    with contextlib.redirect_stdout(sys.stderr):
        manager = TaskManager(include_path=None if include_path is None else str(include_path))
        found = [name for task in tasks for name in _matching(manager, task)]

        def run() -> Any:
            try:
                return lm_eval.simple_evaluate(
                    model, tasks=found, limit=limit, task_manager=manager, bootstrap_iters=_BOOTSTRAP
                )
            except hub_errors() as error:
                raise UnreachableError(
                    f"the data of {' or '.join(found)} cannot be had ({str(error).splitlines()[0]})",
                    cure="Check the network, or name tasks over local files with --include-path.",
                ) from None

        before = run()
        with edit(checkpoint.model, edits):
            after = run()
    return compared(before, after)


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[TaskMetric]:
    """What two runs of the harness on the same documents say, metric by metric.

    Args:
        before, after: what `lm_eval.simple_evaluate` returns.
    """
    found = []
    for task, metrics in before["results"].items():
        for key, value in metrics.items():
            metric, _, name = key.partition(",")
            if not name or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            one, two = (_documents(run, task, metric, name) for run in (before, after))
            other = float(after["results"][task][key])
            found.append(
                TaskMetric(
                    task,
                    metric,
                    name,
                    before["n-samples"].get(task, {}).get("effective"),
                    float(value),
                    _number(metrics.get(f"{metric}_stderr,{name}")),
                    other,
                    _number(after["results"][task].get(f"{metric}_stderr,{name}")),
                    other - float(value),
                    _paired(one, two, float(value), other),
                )
            )
    return found


def _matching(manager: Any, task: str) -> list[str]:
    """Names of the tasks that a pattern stands for."""
    found: list[str] = manager.match_tasks([task])
    if not found:
        close = get_close_matches(task, manager.all_tasks, n=1)
        cure = f"Did you mean {close[0]!r}?" if close else "lm-eval ls tasks lists them; --include-path names a folder."
        raise UserError(f"the harness has no task {task!r}", where="--tasks", cure=cure)
    return found


def _documents(run: Mapping[str, Any], task: str, metric: str, name: str) -> dict[Any, float]:
    """Document -> what a metric says of it; empty where it speaks of all of them together."""
    samples = [each for each in run.get("samples", {}).get(task, []) if each["filter"] == name and metric in each]
    values = {each["doc_id"]: each[metric] for each in samples}
    return values if all(isinstance(value, int | float) for value in values.values()) else {}


def _paired(before: Mapping[Any, float], after: Mapping[Any, float], *means: float) -> float | None:
    """Standard error of the mean difference, where the metric is the mean over documents."""
    if len(before) < 2 or before.keys() != after.keys():
        return None
    one, two = (np.array([run[each] for each in before], dtype=np.float64) for run in (before, after))
    if not np.allclose([one.mean(), two.mean()], means, rtol=1e-6, atol=1e-9):
        return None
    return float((two - one).std(ddof=1) / math.sqrt(len(one)))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
