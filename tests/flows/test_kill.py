"""A run that is killed at any moment, again and again: the next one goes on, and ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from neuronlens.config import Config
from neuronlens.stages import flat
from tests.flows import kills
from tests.forked import Forked

KILLS = 2  # a kill costs some ten seconds with what follows it; `python -m tests.flows.kills` takes any number


def test_a_run_killed_at_any_moment_goes_on_where_it_stopped(configure: Callable[..., Config], tmp_path: Path) -> None:
    config = configure("extract.batch_tokens=40", "interventions.tuned=null")
    overrides = [
        f"{name}={json.dumps(value)}" for name, value in flat(config.model_dump(mode="json", exclude={"preset"}))
    ]
    done = Forked(kills.run, [str(KILLS), str(tmp_path), *overrides], tmp_path)
    _, told = done.communicate(timeout=900)
    assert done.returncode == 0, told
