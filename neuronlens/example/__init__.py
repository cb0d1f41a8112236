"""The embedded example: labelled text and two small models, made from nothing by this package, without network.

Making it takes about a minute and a half on two cores, once; from then on it is found on disk.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neuronlens.artifact import fresh_folder, read_json, write_json, write_table
from neuronlens.errors import ArtifactError, NeuronLensError, UserError

__all__ = ["PROMPT", "RECIPE", "STEPS", "Example", "make_example"]

RECIPE = 1
"""Raised by every change after which an equal seed gives another example; what an older recipe made is made anew."""

PROMPT = "{text} Topic:"
"""Template the language model learns with; a space and the label come after it."""

STEPS = (200, 400)
"""Training steps after which each run leaves a checkpoint: half-way and at its end."""

_MODELS = ("classifier", "language_model")

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Example:
    """The example in a folder.

    Attributes:
        folder: what `make_example` was given.
    """

    folder: Path

    @property
    def dataset(self) -> Path:
        """Labelled text: columns text, label, split (`fit`, `validation`, `test`)."""
        return self.folder / "dataset.parquet"

    @property
    def auxiliary(self) -> Path:
        """Unlabelled text, one document per line, that no model has learned from."""
        return self.folder / "auxiliary.txt"

    @property
    def classifiers(self) -> tuple[Path, Path]:
        """Checkpoints of a BERT sequence classifier: half-way through its training and final."""
        return self._checkpoints("classifier")

    @property
    def language_models(self) -> tuple[Path, Path]:
        """Checkpoints of a GPT-2 language model: half-way through its training and final."""
        return self._checkpoints("language_model")

    @property
    def record(self) -> Path:
        """example.json: recipe, seed and scores. It is written last."""
        return self.folder / "example.json"

    def scores(self) -> Scores:
        """Checkpoint, as `classifier/checkpoint-400` -> its test_accuracy, and a language model's perplexity."""
        scores: Scores = read_json(self.record)["scores"]
        return scores

    def _checkpoints(self, model: str) -> tuple[Path, Path]:
        half_way, final = (self.folder / model / f"checkpoint-{step}" for step in STEPS)
        return half_way, final


def make_example(out: Path, *, seed: int = 0, progress: Callable[[str], None] | None = None) -> Example:
    """The example in the folder `out`: made there, unless it already is.

    Args:
        seed: of the texts and of both training runs. Equal seeds give equal texts and, on one machine, equal weights.
        progress: is told in a few short lines how far the work has come.

    Raises:
        UserError: `out` holds something else, or accelerate, which the Trainer needs, is not installed.
    """
    example = Example(out)
    if is_made(example, seed):
        return example
    _check(example)
    tell = progress or (lambda _: None)
    with fresh_folder(out) as folder:
        tell("writing the texts")
        _write_texts(Example(folder), seed)
        tell("training a classifier and a language model, side by side (about a minute)")
        scores = _train(folder, seed)
        write_json(Example(folder).record, {"recipe": RECIPE, "seed": seed, "scores": scores})
    for checkpoint, reached in scores.items():
        tell(", ".join([checkpoint, *(f"{name.replace('_', ' ')} {score:.3g}" for name, score in reached.items())]))
    return example


def is_made(example: Example, seed: int = 0) -> bool:
    """Whether the folder holds the example of this recipe and seed, whole. Costs milliseconds, and no import of torch."""
    try:
        record = read_json(example.record)
    except ArtifactError:
        return False
    files = [example.dataset, example.auxiliary]
    for checkpoint in example.classifiers + example.language_models:
        files += [checkpoint / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    return (record.get("recipe"), record.get("seed")) == (RECIPE, seed) and all(file.is_file() for file in files)


def _check(example: Example) -> None:
    """Refuse, before any work, what the example must not replace or cannot be made with."""
    out = example.folder
    if out.exists() and not out.is_dir():
        raise UserError("is a file", where=str(out), cure="Name a folder.")
    own = {*_MODELS, *(file.name for file in (example.dataset, example.auxiliary, example.record))}
    strangers = sorted({entry.name for entry in out.iterdir()} - own) if out.exists() else []
    if strangers:
        raise UserError(
            f"holds {strangers[0]!r}, which is not the example's", where=str(out), cure="Name a new folder."
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UserError("the example is trained with accelerate, which is missing", cure="pip install accelerate.")


def _write_texts(example: Example, seed: int) -> None:
    import pyarrow as pa

    from neuronlens.example.corpus import generate

    corpus = generate(seed)
    columns = {name: [getattr(row, name) for row in corpus.audited] for name in ("text", "label", "split")}
    write_table(example.dataset, pa.table(columns))
    example.auxiliary.write_text("".join(f"{text}\n" for text in corpus.auxiliary), encoding="utf-8")


def _train(folder: Path, seed: int) -> Scores:
    """Train both models at once, each in a process of its own that has one thread.

    Models this small gain little from a second thread, and lose much when its core is busy with something else. With one
    thread the weights do not depend on the number of cores. And the Trainer reseeds the whole process it runs in.
    """
    with ThreadPoolExecutor(len(_MODELS)) as pool:
        runs = list(pool.map(lambda model: _train_alone(model, folder / model, seed), _MODELS))
    return {
        f"{model}/{name}": reached
        for model, scores in zip(_MODELS, runs, strict=True)
        for name, reached in scores.items()
    }


def _train_alone(model: str, folder: Path, seed: int) -> Scores:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the child imports what this process would
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "neuronlens.example.train", model, str(folder), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        status = f"exit status {done.returncode}"  # a signal's number, negated, where somebody ended it
        raise NeuronLensError(f"training the example's {model} failed with {status}\n{done.stderr}")
    scores: Scores = json.loads(done.stdout)
    return scores
