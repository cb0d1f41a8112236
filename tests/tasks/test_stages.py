"""The task around a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.cache_policies import NO_CACHE

from neuronlens.config import Config, RunnerParams
from neuronlens.parts import Mapper
from neuronlens.stages import Outcome
from tasks import stages
from tasks.audits import Audit
from tasks.runners import Pool
from tasks.stages import run_stage


@pytest.mark.parametrize(
    ("outcome", "state"), [("computed", "Completed"), ("current", "Cached"), ("restored", "Cached")]
)
def test_the_state_tells_whether_there_was_anything_to_do(
    outcome: str, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, given, pool = Outcome("fit", outcome, "because", 0.0), Audit(Config(), tmp_path), Pool(RunnerParams())

    def run(audit: Audit, name: str, *, force: bool, mapper: Mapper) -> Outcome:
        assert (audit, name, force, mapper) == (given, "fit", True, pool)
        return told

    monkeypatch.setattr(stages, "bring_up_to_date", run)
    ended = run_stage.fn("fit", given, pool, force=True)
    assert (ended.is_completed(), ended.name, ended.message) == (True, state, f"{outcome}: because")
    assert ended.result() == told


def test_prefect_keeps_no_cache_of_its_own() -> None:
    assert run_stage.persist_result is False
    assert run_stage.cache_policy is NO_CACHE
