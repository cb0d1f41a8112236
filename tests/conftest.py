"""What several tests share: tiny checkpoints of every family, a little labelled text, and the example."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers.utils import logging

from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, load_checkpoint
from neuronlens.dataset import Dataset
from neuronlens.example import Example, make_example
from neuronlens.params import load_config
from neuronlens.stages import STAGES, run_stage
from tests import planted
from tests.models import CONCEPTS, WORDS, save_checkpoint

torch.set_num_threads(1)  # xdist runs several workers; tiny models gain nothing from threads
logging.disable_progress_bar()

ROOT = Path(__file__).resolve().parent.parent


class Checkpoints:
    """Random checkpoints, made at first use and shared by the tests of a worker. Their models must be left as they were found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Checkpoint] = {}

    def __call__(self, family: str, seed: int = 0, **overrides: Any) -> Checkpoint:
        name = "-".join([family, str(seed), *(f"{key}_{value}" for key, value in sorted(overrides.items()))])
        if name not in self.made:
            self.made[name] = load_checkpoint(save_checkpoint(self.folder / name, family, seed, **overrides))
        return self.made[name]


def hooks(model: torch.nn.Module) -> int:
    """Hooks on all modules of a model, and methods of its instances that stand before their class's."""
    count = 0
    for module in model.modules():
        count += len(module._forward_hooks) + len(module._forward_pre_hooks)
        count += sum(name in module.__dict__ for name in ("forward", "generate"))
    return count


def pytest_collection_finish() -> None:
    """What the imports have made stays; looking for garbage among it, again and again, takes a twentieth of all the time."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries complain of what is not taken down at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """`checkpoints(family)` is a Checkpoint with 3 layers and 16 neurons a site (24 in the MLP)."""
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def pristine(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may leave a hook on a shared model."""
    if "checkpoints" not in request.fixturenames:
        yield
        return
    made = request.getfixturevalue("checkpoints").made

    def count() -> dict[str, int]:
        return {name: hooks(item.model) for name, item in made.items() if "model" in item.__dict__}

    before = count()
    yield
    left = {name: found for name, found in count().items() if found != before.get(name, 0)}
    assert not left, f"hooks were left: {left}"


def sentences(count: int, seed: int = 0, words: range = range(2, 15)) -> list[str]:
    """Different texts of different length, in words the tiny tokenizers know."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choices(WORDS[:40], k=rng.choice(words)))] = None
    return list(found)


def labelled(concepts: tuple[str, ...] = CONCEPTS, *, fit: int = 8, validation: int = 1, test: int = 3) -> Dataset:
    """Rows of random words, so many of each concept and split."""
    splits = ["fit"] * fit + ["validation"] * validation + ["test"] * test
    pairs = [(concept, split) for split in splits for concept in concepts]
    return Dataset(
        "topics",
        list(range(len(pairs))),
        sentences(len(pairs)),
        [concept for concept, _ in pairs],
        [split for _, split in pairs],
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Four concepts with 8 fit rows, 1 validation row and 3 test rows each."""
    return labelled()


@pytest.fixture
def prepared(tmp_path, dataset) -> Path:
    """What the stage `prepare` leaves of the data set."""
    folder = tmp_path / "prepare"
    folder.mkdir()
    write_table(folder / "dataset.parquet", dataset.to_table())
    return folder


@pytest.fixture(scope="session")
def planted_audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of the planted model, one neuron a concept; its checkpoint and data lie beside it."""
    return audit_planted(tmp_path_factory.mktemp("planted"))


def audit_planted(folder: Path, *overrides: str) -> Path:
    """`planted_audit` in another folder, told something more."""
    config = load_config(None, [*planted.settings(folder), *overrides])
    for stage in STAGES:
        run_stage(stage, config, folder / "audit")
    return folder / "audit"


@pytest.fixture(scope="session")
def tuned_audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of a random GPT-2 at all blocks, where validation rows have chosen; its checkpoint `model` lies beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    write_table(folder / "topics.parquet", labelled(CONCEPTS[:3], validation=3).to_table())
    given = [
        f"checkpoint.path={save_checkpoint(folder / 'model', 'gpt2')}",
        f"dataset.path={folder / 'topics.parquet'}",
    ]
    given += ["dataset.text=text", "dataset.label=concept", "fit.rows=all", "fit.saliency=mean_abs"]
    given += ["extract.sites=resid_post.all", "interventions.top=0.3", "interventions.tau=2"]
    given += [
        "interventions.controls=[random_ranges, leace]",
        "interventions.tuned.top=0.5",
        "interventions.joint=[2, 9]",
    ]
    config = load_config(None, [*given, "dataset.prompt='{text} Topic:'", "evaluate.bootstrap=100"])
    for stage in STAGES:
        run_stage(stage, config, folder / "audit")
    return folder / "audit"


@pytest.fixture(scope="session")
def example() -> Example:
    """The example that `neuronlens example` makes, in the git-ignored folder data/example."""
    folder = ROOT / "data" / "example"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name("example.lock")):  # several workers start at once
        return make_example(folder)
