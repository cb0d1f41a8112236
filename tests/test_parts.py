"""Parts of a stage's work: made once, found again, and given up together."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuronlens.parts import Flag, GivenUpError, Held, PartMaker, Parts, go_on, in_threads, link_files, raise_first


def write(name: str, out: Path) -> Mapping[str, object]:
    """The simplest job."""
    (out / "data.txt").write_text(name)
    return {"length": len(name)}


def test_parts_are_made_once(tmp_path: Path) -> None:
    made: list[str] = []

    def job(name: str, out: Path) -> Mapping[str, object]:
        made.append(name)
        return write(name, out)

    parts = Parts(tmp_path / "parts")
    first = parts.make(["a", "b"], job)
    second = parts.make(["a", "b", "c"], job)
    assert sorted(made) == ["a", "b", "c"]
    assert {name: (folder / "data.txt").read_text() for name, folder in second.items()} == {
        name: name for name in "abc"
    }
    assert first["a"] == second["a"]
    parts.clear()
    assert not parts.folder.exists()


def test_a_part_that_was_hurt_is_made_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    folder = parts.make(["a"], write)["a"]
    (folder / "data.txt").write_text("b")
    assert (parts.make(["a"], write)["a"] / "data.txt").read_text() == "a"


def test_other_keys_parts_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "extract"
    old = Parts.of(out, "1" * 64)
    old.make(["a"], write)
    assert Parts.of(out, "1" * 64).folder == old.folder
    assert old.folder.exists()
    new = Parts.of(out, "2" * 64)
    assert new.folder != old.folder
    assert not old.folder.exists()


def test_a_failure_ends_the_others_and_is_the_one_that_is_told(tmp_path: Path) -> None:
    started = threading.Event()

    def job(name: str, out: Path) -> Mapping[str, object]:
        if name == "bad":
            started.wait(10)
            raise ValueError("bad data")
        started.set()
        for _ in range(10_000):
            go_on()
            threading.Event().wait(0.001)
        raise AssertionError("nobody stopped it")

    with pytest.raises(ValueError, match="bad data"):
        Parts(tmp_path / "parts").make(["long", "bad", "never"], job)
    assert [*(tmp_path / "parts").iterdir()] == [] if (tmp_path / "parts").exists() else True


def test_outside_of_parts_there_is_nothing_to_give_up() -> None:
    go_on()


def test_who_is_to_blame_is_raised_before_who_gave_up() -> None:
    raise_first([None])
    with pytest.raises(KeyError):
        raise_first([None, GivenUpError("later"), KeyError("first")])
    with pytest.raises(GivenUpError):
        raise_first([GivenUpError("alone")])


def test_a_maker_can_be_sent_to_another_process(tmp_path: Path) -> None:
    maker = PartMaker(tmp_path / "parts", write)
    maker.flag.give_up()
    sent = pickle.loads(pickle.dumps(maker))
    sent("a")
    assert (tmp_path / "parts/a/data.txt").read_text() == "a"
    with pytest.raises(GivenUpError):
        maker("b")
    assert not (tmp_path / "parts/b").exists()


def test_threads_make_all_of_many(tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(40)]
    maker = PartMaker(tmp_path, write)
    in_threads(maker, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(GivenUpError):
        maker.flag.check()


def test_a_flag_is_up_or_not() -> None:
    flag = Flag()
    flag.check()
    flag.give_up()
    with pytest.raises(GivenUpError):
        flag.check()


def test_what_is_held_is_made_once_for_a_key() -> None:
    held: Held[object] = Held()
    one = held.get(1, object)
    assert held.get(1, object) is one
    assert held.get(2, object) is not one
    assert held.get(1, object) is not one
    two = held.get(1, object)
    held.clear()
    assert held.get(1, object) is not two


def test_files_are_linked_and_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part/inner").mkdir(parents=True)
    (tmp_path / "part/inner/data.txt").write_text("data")
    link_files(tmp_path / "part", ["inner/data.txt"], tmp_path / "one")
    assert (tmp_path / "one/inner/data.txt").samefile(tmp_path / "part/inner/data.txt")

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_files(tmp_path / "part", ["inner/data.txt"], tmp_path / "two")
    assert (tmp_path / "two/inner/data.txt").read_text() == "data"
    assert not (tmp_path / "two/inner/data.txt").samefile(tmp_path / "part/inner/data.txt")
