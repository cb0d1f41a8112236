"""The program of test_kill: audits that are killed at random moments, each in a process forked from this one.

A fork costs no imports, and this process has done nothing but import: threads that it had started would be missing in its children.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch

from flows.engine import default_folder, run_audit
from neuronlens import parts
from neuronlens.activations import store
from neuronlens.config import Config
from neuronlens.params import load_config
from neuronlens.stages import STAGES
from tasks.versioning import Workspace
from tests.flows.results import files

for heavy in ("mlflow", "transformers", "neuronlens.evaluation.sweep", "neuronlens.report.page", "dvc.repo"):
    import_module(heavy)  # here, once, and not in every child

MAKE = parts.PartMaker.__call__


def audit(config: Config, root: Path, told: Path) -> None:
    """What a child does. Parts that are whole are told, and so is what became of each stage."""

    def noted(maker: parts.PartMaker, name: str) -> None:
        MAKE(maker, name)
        with told.open("a") as file:
            file.write(f"{maker.folder.name} {name}\n")

    patch.object(parts.PartMaker, "__call__", noted).start()  # of this process, which ends with the audit
    torch.set_num_threads(1)
    os.chdir(root)
    found = run_audit(config, default_folder(config), use_flow=False)
    root.with_suffix(".json").write_text(json.dumps([outcome.outcome for outcome in found]))


def start(config: Config, root: Path, told: Path) -> int:
    """A child's pid."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        audit(config, root, told)
        status = 0
    finally:
        os._exit(status)


def finish(child: int) -> None:
    """Wait for a child that must end well."""
    status = os.waitpid(child, 0)[1]
    assert status == 0, status


def main(kills: int, folder: Path, overrides: list[str]) -> None:
    """Kill an audit so many times in all; whenever one gets through, look at what it left and begin another."""
    patch.object(store, "_SHARD_BYTES", 4 * 24 * 4).start()  # a shard holds few rows, so that there are many
    config, told = load_config(None, overrides), folder / "told.txt"
    undisturbed = Workspace.create(folder / "undisturbed").root
    finish(start(config, undisturbed, told))
    os.chdir(undisturbed)
    place = default_folder(config)
    expected, once = files(place), Counter(told.read_text().splitlines())
    assert len(once) > 10, once
    begun = time.monotonic()
    shutil.rmtree(undisturbed / place)
    shutil.rmtree(undisturbed / ".dvc/cache")
    finish(start(config, undisturbed, told))
    whole = time.monotonic() - begun  # with MLflow's tables there, which take longer to make than all the rest

    generator, done, turn = random.Random(0), 0, 0
    while done < kills:
        root = Workspace.create(folder / f"killed{turn}").root
        shutil.copy(undisturbed / "mlflow.db", root)
        told.unlink(missing_ok=True)
        own, patience = 0, 1.0
        while True:
            child, end, ended = (
                start(config, root, told),
                time.monotonic() + generator.uniform(0, patience * whole),
                (0, 0),
            )
            while time.monotonic() < end and not ended[0]:
                time.sleep(0.002)
                ended = os.waitpid(child, os.WNOHANG)
            if ended[0]:
                assert ended[1] == 0, ended
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            own, patience = own + 1, patience * 1.05
        os.chdir(root)
        assert files(place) == expected
        again = Counter(told.read_text().splitlines()) - once
        assert not again, f"parts that were whole were made again: {again}"
        finish(start(config, root, told))
        assert json.loads(root.with_suffix(".json").read_text()) == ["current"] * len(STAGES)
        left = [path.name for path in place.iterdir() if path.name.startswith(".") and path.is_dir()]
        assert not left, left
        os.chdir(folder)
        shutil.rmtree(root)
        done, turn = done + own, turn + 1
        sys.stdout.write(f"killed {done} times, got through {turn} times\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
