"""Parts that another process makes, which has what they are made from in other places and knows nothing of the run."""

from __future__ import annotations

import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from neuronlens.evaluation import sweep
from neuronlens.params import load_config
from neuronlens.sources import Sources
from neuronlens.stages import run_stage
from tests.conftest import labelled
from tests.evaluation.tables import rows_of, table_of, tables_at

CONCEPTS = ("finance", "health", "sports")


@pytest.fixture(scope="module")
def audit(checkpoints, tmp_path_factory):
    """Folder and configuration of an audit in which validation rows choose, with several parts of each kind."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(checkpoints("bert").path, folder / "model")
    pq.write_table(table_of(rows_of(labelled(CONCEPTS, fit=8, validation=3, test=4))), folder / "topics.parquet")
    given = [f"checkpoint.path={folder / 'model'}", f"dataset.path={folder / 'topics.parquet'}"]
    given += ["fit.rows=all", "fit.saliency=mean_abs", "evaluate.bootstrap=100", "extract.batch_tokens=40"]
    config = load_config(None, [*given, "interventions.top=0.3", "interventions.tau=2"])
    for stage in ("prepare", "extract", "fit", "evaluate"):
        run_stage(stage, config, folder / "audit")
    return folder / "audit", config


@contextmanager
def gone(*paths):
    """Nothing lies there for a while."""
    for path in paths:
        path.rename(path.with_name(f"{path.name}-away"))
    try:
        yield
    finally:
        for path in paths:
            path.with_name(f"{path.name}-away").rename(path)


def test_parts_are_the_same_wherever_their_sources_lie(audit, tmp_path):
    folder, config = audit
    before = {name: (folder / "evaluate" / name).read_bytes() for name in tables_at(folder / "evaluate")}
    made = []

    def elsewhere(maker, names):
        for name in names:
            sweep._held.clear()  # as in a process of its own
            root = tmp_path / str(len(made))
            places = {what: root / what.replace("/", "-") for what in maker.places}
            for what, path in maker.places.items():
                (shutil.copytree if path.is_dir() else shutil.copy)(path, places[what])
            moved = pickle.loads(pickle.dumps(maker)).at(places, maker.folder)
            validated = [path for what, path in maker.places.items() if what.partition("-")[2].startswith("validation")]
            with gone(folder / "prepare", folder / "fit", folder.with_name("model"), *validated):
                moved(name)
            made.append((name, len(validated)))

    run_stage("evaluate", config, folder, force=True, mapper=elsewhere)
    assert {name: (folder / "evaluate" / name).read_bytes() for name in tables_at(folder / "evaluate")} == before
    tried = [seen for name, seen in made if "-validation-" in name]
    assert len(tried) > 1
    assert not any(tried)
    tested = [seen for name, seen in made if "-test-" in name]
    assert len(tested) > 1
    assert {*tested} == {len(tried)}, "they are told what validation rows say"


def test_a_process_that_makes_parts_of_two_runs_plans_each(audit):
    folder, config = audit
    sources = Sources(config, {name: folder / name for name in ("prepare", "fit")})
    other = Sources(config.model_copy(update={"seed": 9}), sources.folders)
    jobs = [sweep._Score(Path("one"), sources), sweep._Score(Path("other"), other)]
    try:
        first, second = (job.plan() for job in jobs)
        assert (first.config.seed, second.config.seed) == (0, 9)
        assert jobs[1].plan() is second
    finally:
        sweep._held.clear()


def test_a_part_on_test_rows_settles_what_is_tested_once(audit, tmp_path, monkeypatch):
    """Where no rows validate, too."""
    folder, config = audit
    sources = Sources(config, {name: folder / name for name in ("prepare", "fit")})
    job = sweep._Score(tmp_path, sources, ())
    found = job.plan()
    judged: list[object] = []
    judge = type(found).judge
    monkeypatch.setattr(type(found), "judge", lambda self, tried: judged.append(tried) or judge(self, tried))
    try:
        with pytest.raises(Exception, match="planned otherwise"):
            job("0-test-00000", tmp_path)
        with pytest.raises(Exception, match="planned otherwise"):
            job("0-test-00000", tmp_path)
    finally:
        sweep._held.clear()
    assert judged == [None]
