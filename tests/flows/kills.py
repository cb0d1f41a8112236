"""The program of test_kill: audits that are killed at random moments, each in a process forked from one that only imports."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

from flows.engine import default_folder, run_audit
from neuronlens import parts
from neuronlens.activations import store
from neuronlens.config import Config
from neuronlens.params import load_config
from neuronlens.stages import STAGES
from tasks.tracking.store import client_of
from tasks.versioning import Workspace
from tests import preloaded  # noqa: F401  # here, once, and not in every child
from tests.flows.results import files

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


def tables(root: Path) -> None:
    """MLflow's, which take longer to make than all the rest of an audit."""
    client_of(f"sqlite:///{root / 'mlflow.db'}").search_experiments()


def start(function: Callable[..., None], *arguments: object) -> int:
    """The pid of a child that calls a function."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()  # nobody else tells it, as the child ends here
    finally:
        sys.stderr.flush()
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
    finish(start(tables, undisturbed))
    begun = time.monotonic()
    finish(start(audit, config, undisturbed, told))
    whole = time.monotonic() - begun
    os.chdir(undisturbed)
    place = default_folder(config)
    expected, once = files(place), Counter(told.read_text().splitlines())
    assert len(once) > 10, once

    generator, done, turn = random.Random(0), 0, 0
    while done < kills:
        root = Workspace.create(folder / f"killed{turn}").root
        shutil.copy(undisturbed / "mlflow.db", root)
        told.unlink(missing_ok=True)
        own, patience = 0, 1.0
        while True:
            child, end, ended = (
                start(audit, config, root, told),
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
        finish(start(audit, config, root, told))
        assert json.loads(root.with_suffix(".json").read_text()) == ["current"] * len(STAGES)
        left = [path.name for path in place.iterdir() if path.name.startswith(".") and path.is_dir()]
        assert not left, left
        os.chdir(folder)
        shutil.rmtree(root)
        done, turn = done + own, turn + 1
        sys.stdout.write(f"killed {done} times, got through {turn} times\n")
        sys.stdout.flush()


def run(words: Sequence[str]) -> int:
    """How many kills, where, and of what audit."""
    kills, folder, *overrides = words
    main(int(kills), Path(folder), overrides)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
