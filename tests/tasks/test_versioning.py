"""The workspace under DVC, on stages that cost nothing: what is current, restored and computed, and why."""

from __future__ import annotations

import builtins
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuronlens.errors import InputsChangedError, UserError
from tasks.versioning import Workspace
from tests.forked import dvc
from tests.tasks.conftest import STAGES, Toy

CURRENT = ("current", "nothing it depends on has changed")


def no_scm(root: Path) -> None:
    """What the command line needs outside git."""
    dvc(root, "config", "--local", "core.no_scm", "true")


def test_what_is_computed_once_is_current(toy: Toy) -> None:
    assert toy.look() == [("computed", "not there yet"), ("computed", "follows one"), ("computed", "follows two")]
    assert toy.run() == [("computed", "not there yet")] * 3
    assert toy.look() == toy.run() == [CURRENT] * 3
    assert toy.computed == [*STAGES]


def test_dvc_itself_agrees(toy: Toy) -> None:
    toy.run()
    no_scm(toy.root)
    assert "up to date" in dvc(toy.root, "status")
    assert "didn't change" in dvc(toy.root, "repro")


def test_a_parameter_makes_anew_what_depends_on_it_and_is_named(toy: Toy) -> None:
    toy.run()
    toy.set(three={"deep": [4]})
    changed = ("computed", "three.deep [3] -> [4]")
    assert toy.look() == [CURRENT, CURRENT, changed]
    assert toy.run() == [CURRENT, CURRENT, changed]


def test_going_back_restores_from_the_run_cache_link_by_link(toy: Toy) -> None:
    toy.run()
    before = {name: (toy.root / name / "out.txt").read_bytes() for name in STAGES}
    toy.set(one=7)
    assert toy.look() == [("computed", "one 1 -> 7"), ("computed", "follows one"), ("computed", "follows two")]
    toy.run()
    toy.set(one=1)
    assert toy.look() == [
        ("restored", "one 7 -> 1; the run-cache has it"),
        ("restored", "one changed; the run-cache has it"),
        ("restored", "two changed; the run-cache has it"),
    ]
    assert toy.run() == [
        ("restored", "one 7 -> 1; restored from the run-cache"),
        ("restored", "one changed; restored from the run-cache"),
        ("restored", "two changed; restored from the run-cache"),
    ]
    assert {name: (toy.root / name / "out.txt").read_bytes() for name in STAGES} == before
    assert len(toy.computed) == 2 * len(STAGES)


def test_what_was_thrown_away_comes_back_from_the_run_cache_alone(toy: Toy) -> None:
    toy.run()
    before = {name: (toy.root / name / "out.txt").read_bytes() for name in STAGES}
    for name in STAGES:
        shutil.rmtree(toy.root / name)
    (toy.root / "dvc.lock").unlink()
    assert toy.look() == [("restored", "not there yet; the run-cache has it")] * len(STAGES)
    assert toy.run() == [("restored", "not there yet; restored from the run-cache")] * len(STAGES)
    assert {name: (toy.root / name / "out.txt").read_bytes() for name in STAGES} == before
    assert len(toy.computed) == len(STAGES)


def test_an_equal_result_of_a_changed_stage_leaves_what_follows_current(toy: Toy) -> None:
    toy.run()
    (toy.root / "raw.txt").write_text("ra")
    toy.set(one="w1")
    assert [outcome for outcome, _ in toy.run()] == ["computed", "current", "current"]


def test_times_and_comments_change_nothing(toy: Toy) -> None:
    toy.run()
    os.utime(toy.root / "raw.txt", (1, 1))
    (toy.root / "params.yaml").write_text("# a comment\n" + (toy.root / "params.yaml").read_text())
    (toy.root / "one/timing.json").write_text("{}")
    assert toy.run() == [CURRENT] * 3


def test_an_input_that_changed_is_named(toy: Toy) -> None:
    toy.run()
    (toy.root / "raw.txt").write_text("raw and more")
    assert toy.look()[0] == ("computed", "raw.txt changed")


@pytest.mark.parametrize("how", ["edited", "deleted", "half"])
def test_an_artifact_that_was_touched_comes_back(toy: Toy, how: str) -> None:
    toy.run()
    file = toy.root / "two/out.txt"
    before = file.read_bytes()
    file.unlink()  # as an editor that replaces files
    if how == "edited":
        file.write_text("by hand")
    elif how == "deleted":
        shutil.rmtree(file.parent)
    outcome, reason = toy.run()[1]
    assert outcome == "restored"
    assert reason.startswith("its files are gone" if how == "deleted" else "its files are not what they were")
    assert file.read_bytes() == before
    assert len(toy.computed) == len(STAGES)


def test_without_the_cache_it_is_computed_again(toy: Toy) -> None:
    toy.run()
    shutil.rmtree(toy.root / "two")
    shutil.rmtree(toy.root / ".dvc/cache")
    assert toy.run()[1] == ("computed", "its files are not in the cache")


def test_force_computes_what_is_current(toy: Toy) -> None:
    toy.run()
    found = toy.ensure("two", force=True)
    assert (found.outcome, found.reason) == ("computed", "asked for")


def test_what_was_made_and_not_recorded_is_recorded_and_not_made_again(toy: Toy) -> None:
    toy.make("one")
    found = toy.ensure("one", made=lambda: True)
    assert (found.outcome, found.reason) == ("current", "computed before, recorded now")
    assert toy.computed == ["one"]
    assert toy.look()[0] == CURRENT


def test_nothing_is_recorded_where_an_input_changed_in_the_meantime(toy: Toy) -> None:
    def careless() -> None:
        toy.make("one")
        (toy.root / "raw.txt").write_text("changed while it ran")

    with pytest.raises(InputsChangedError, match=r"dvc\.yaml:one"):
        toy.workspace.ensure("dvc.yaml:one", careless)
    assert toy.look()[0] == ("computed", "not there yet")


def test_nothing_is_computed_by_other_parameters_than_dvc_reads(toy: Toy) -> None:
    with pytest.raises(InputsChangedError, match="parameters"):
        toy.ensure("one", same=lambda: False)
    assert toy.computed == []


def test_a_stage_that_fails_leaves_the_old_result_and_no_record(toy: Toy) -> None:
    toy.run()
    before = (toy.root / "one/out.txt").read_bytes()
    toy.set(one=2)

    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy.workspace.ensure("dvc.yaml:one", fail)
    assert (toy.root / "one/out.txt").read_bytes() == before
    assert toy.look()[0] == ("computed", "one 1 -> 2")


def test_many_stages_that_end_at_once_are_all_recorded(tmp_path: Path) -> None:
    workspace, names = Workspace.create(tmp_path), [f"stage{i}" for i in range(8)]
    stages = {name: {"cmd": f"make {name}", "params": [name], "outs": [name]} for name in names}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(dict.fromkeys(names, 1)))

    def ensure(name: str) -> str:
        return workspace.ensure(f"dvc.yaml:{name}", lambda: (tmp_path / name).write_text(name)).outcome

    with ThreadPoolExecutor(len(names)) as pool:
        assert [*pool.map(ensure, names)] == ["computed"] * len(names)
    assert sorted(yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]) == names


def test_threads_that_ask_for_one_stage_compute_it_once(toy: Toy) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: toy.ensure("one").outcome, range(4))]
    assert sorted(found) == ["computed", "current", "current", "current"]
    assert toy.computed == ["one"]


def test_a_merge_conflict_is_told_with_its_cure(toy: Toy) -> None:
    toy.run()
    lock = toy.root / "dvc.lock"
    lock.write_text(f"<<<<<<< ours\n{lock.read_text()}=======\n>>>>>>> theirs\n")
    with pytest.raises(UserError, match=r"dvc\.lock: holds the marks of a merge conflict.*git checkout --ours"):
        toy.ensure("one")


def test_a_lock_that_was_written_half_is_made_anew_from_what_is_there(toy: Toy) -> None:
    """Wherever it was cut, and whoever asks first: nothing is believed that does not stand there whole, and nothing is computed again."""
    toy.run()
    lock = toy.root / "dvc.lock"
    whole = lock.read_text()
    for length in range(0, len(whole), 37):
        for ask in (toy.look, toy.run):
            lock.write_text(whole[:length])
            assert {outcome for outcome, _ in ask()} <= {"current", "restored"}
        assert toy.look() == [CURRENT] * 3
    assert toy.computed == [*STAGES]


def test_a_pipeline_that_cannot_be_read_is_not_blamed_on_the_lock(toy: Toy) -> None:
    toy.run()
    lock = (toy.root / "dvc.lock").read_text()
    (toy.root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml: cannot be read"):
        toy.look()
    assert (toy.root / "dvc.lock").read_text() == lock
    assert not [*toy.root.glob("*.broken")]


def test_whoever_is_killed_while_dvc_lock_is_written_leaves_it_as_it_was(toy: Toy) -> None:
    toy.run()
    toy.set(three=4)
    lock = toy.root / "dvc.lock"
    before = lock.read_text()
    opened = io.open

    def killed(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        found = opened(file, mode, *arguments, **more)  # which empties it
        if "dvc.lock" in str(file) and "w" in mode:
            os._exit(9)
        return found

    child = os.fork()
    if not child:
        io.open = builtins.open = killed  # of the child alone
        try:
            toy.run()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert lock.read_text() == before
    assert toy.look()[:2] == [CURRENT] * 2
    assert toy.run()[:2] == [CURRENT] * 2
    assert toy.run() == [CURRENT] * 3
    assert [path.name for path in toy.root.iterdir() if "dvc.lock" in path.name] == ["dvc.lock"]


def test_a_half_written_list_of_dvcs_locks_is_made_anew(toy: Toy) -> None:
    toy.run()
    for value, text in enumerate(("", '{"write": {')):
        toy.set(three=4 + value)
        (toy.root / ".dvc/tmp/rwlock").write_text(text)
        assert toy.run()[2][0] == "computed"
        assert toy.run() == [CURRENT] * 3


def test_locks_of_a_process_that_died_are_nobodys_and_those_of_one_that_lives_are_told(toy: Toy) -> None:
    toy.run()
    toy.set(three=4)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    rwlock = toy.root / ".dvc/tmp/rwlock"

    def held_by(pid: int) -> None:
        held = {"pid": pid, "cmd": "dvc repro"}
        rwlock.write_text(json.dumps({"write": {str(toy.root / "three"): held}, "read": {}}))

    held_by(ended.pid)
    assert toy.run()[2][0] == "computed"
    toy.set(three=5)
    held_by(os.getppid())
    with pytest.raises(UserError, match=rf"DVC is at work here .*PID {os.getppid()}.*dvc repro.*Run the same command"):
        toy.run()
    rwlock.unlink()
    assert toy.run()[2][0] == "computed"
    assert toy.run() == [CURRENT] * 3


def test_another_folder_is_found_and_outside_none(toy: Toy, tmp_path: Path) -> None:
    found = Workspace.find(toy.root / "audits/not/there")
    assert found is not None
    assert found.root == toy.root
    assert Workspace.find(tmp_path) is None


def test_nothing_of_the_users_is_replaced_when_a_workspace_is_made(toy: Toy) -> None:
    (toy.root / ".dvc/config").write_text("[core]\n    remote = mine\n")
    Workspace.create(toy.root)
    assert "mine" in (toy.root / ".dvc/config").read_text()


@pytest.mark.parametrize("ignored", ["/runs/\n/one.db\n", "/runs\n*.db\n"])
def test_what_git_ignores_already_is_not_written_down_again(ignored: str, tmp_path: Path) -> None:
    """Also a folder that is not there yet, which git knows from a file by nothing but the pattern."""
    workspace = Workspace.create(tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(ignored)
    workspace.keep_out_of_git(["runs", "one.db"])
    assert (tmp_path / ".gitignore").read_text() == ignored
    workspace.keep_out_of_git(["other"])
    assert (tmp_path / ".gitignore").read_text().splitlines()[-1] == "/other"
