"""Artifacts: whole or not there, explained by their manifest, equal where their inputs are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.artifact import (
    MANIFEST,
    SCHEMA_VERSION,
    TIMING,
    _machine,
    canonical_json,
    content_hash,
    fresh_folder,
    hash_files,
    hash_value,
    is_intact,
    manifest_hash,
    read_json,
    read_manifest,
    read_table,
    shortened,
    slug,
    stage_key,
    write_json,
    write_manifest,
    write_table,
    write_whole,
)
from neuronlens.errors import ArtifactError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def made(folder, params=None, inputs=None, facts=None, method=1):
    """An artifact with two files."""
    with fresh_folder(folder) as out:
        (out / "deep").mkdir()
        (out / "deep" / "table.bin").write_bytes(b"abc")
        (out / "text.txt").write_text("hello")
        (out / TIMING).write_text("{}")
        write_manifest(
            out, stage="fit", method=method, inputs=inputs or {"a": "1"}, params=params or {"b": 2}, facts=facts or {}
        )
    return folder


# ---- folders


def test_a_folder_appears_when_it_is_whole(tmp_path):
    out = tmp_path / "audit" / "fit"
    with fresh_folder(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
        assert folder.parent == out.parent, "a rename is only atomic within one file system"
    assert [path.name for path in out.parent.iterdir()] == ["fit"]
    assert (out / "a").read_text() == "1"
    assert out.stat().st_mode & 0o777 == 0o755, "team-mates can read it"


def test_a_folder_that_failed_was_never_there(tmp_path):
    out = tmp_path / "new" / "audit" / "fit"
    with pytest.raises(KeyError), fresh_folder(out) as folder:
        (folder / "a").write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_does_not_take_the_parent_from_others(tmp_path):
    """Each removes the parent it made when it fails; another may be about to make its own folder in it."""

    def part(number):
        try:
            with fresh_folder(tmp_path / "new" / "parts" / f"{number}"):
                raise KeyError(number)
        except KeyError as error:
            return error.args[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(part, range(2000))) == list(range(2000))
    assert not list(tmp_path.rglob(".*"))


def test_an_older_artifact_survives_a_failed_run_and_yields_to_a_whole_one(tmp_path):
    out = tmp_path / "fit"
    for text, fails in (("old", False), ("broken", True), ("new", False)):
        before = (out / "a").read_text() if out.exists() else None
        try:
            with fresh_folder(out) as folder:
                (folder / "a").write_text(text)
                if out.exists():
                    assert (out / "a").read_text() == before
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert (out / "a").read_text() == before == "old"
    assert (out / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


def test_leftovers_of_dead_runs_are_removed_and_those_of_living_ones_kept(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    stale = tmp_path / f".fit.tmp-{dead.stdout.strip()}-abc"
    old = tmp_path / f".fit.tmp-{dead.stdout.strip()}-abc-old"
    alive, other = tmp_path / f".fit.tmp-{os.getpid()}-abc", tmp_path / f".evaluate.tmp-{dead.stdout.strip()}-abc"
    for folder in (stale, old, alive, other):
        folder.mkdir()
    with fresh_folder(tmp_path / "fit"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"fit", alive.name, other.name}


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, "new"), (OSError, "old")])
def test_an_exchange_that_is_interrupted_leaves_one_of_the_two(tmp_path, monkeypatch, error, kept):
    """The new artifact, which is whole already; the old one, where the new one cannot take its place."""
    out, rename = tmp_path / "fit", Path.rename
    out.mkdir()
    (out / "a").write_text("old")
    tried = []

    def failing(path, target):
        if target == out and not path.name.endswith("-old"):
            tried.append(path)
            if error is OSError or len(tried) == 1:
                raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(error), fresh_folder(out) as folder:
        (folder / "a").write_text("new")
    assert (out / "a").read_text() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


def test_a_file_of_text_is_written_whole_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "index.html"
    write_whole(file, "old")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (file.parent / f".index.html.tmp-{dead.pid}@{_machine()}-abc").write_text("ha")
    write, full = Path.write_text, OSError(28, "No space left on device")

    def half(path, text, **more):
        write(path, text[: len(text) // 2], **more)
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="No space"):
            write_whole(file, "new")
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {"index.html": "old"}
    write_whole(file, "new")
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {"index.html": "new"}


# ---- values, hashes, names


@given(JSON)
def test_equal_values_have_one_spelling(value):
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)
    if isinstance(value, dict):
        assert hash_value(dict(reversed(value.items()))) == hash_value(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, float("-inf")]])
def test_what_is_no_number_is_refused(value, tmp_path):
    for write in (canonical_json, lambda value: write_json(tmp_path / "x.json", value)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(value)


def test_json_comes_back_and_damage_is_named(tmp_path):
    write_json(tmp_path / "x.json", {"b": "é", "a": [1, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, None], "b": "é"}
    assert (tmp_path / "x.json").read_text(encoding="utf-8").endswith("}\n")
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "none.json"):
        with pytest.raises(ArtifactError, match=rf"{name}: cannot be read.*run the same command again"):
            read_json(tmp_path / name)


@given(st.text())
def test_a_slug_is_a_safe_name(text):
    found = slug(text, "otherwise")
    assert found
    assert all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in found)
    assert not found.startswith((".", "-"))
    assert slug(found, "otherwise") == found
    assert len(found) <= 100


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_shortened_name_fits_and_is_nobody_elses(one, other):
    first, second = shortened(one), shortened(other)
    assert len(first.encode()) <= 100
    assert (first == second) == (one == other)
    assert shortened(first) == first
    assert first == one if len(one.encode()) <= 100 else first.startswith(one[:20])


def test_the_identity_of_files_is_their_names_sizes_and_bytes(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    both = hash_files(tmp_path, ["a", "b"])
    assert hash_files(tmp_path, ["b", "a"]) == both
    assert hash_files(tmp_path, ["a"]) != both
    (tmp_path / "b").write_text("3")
    assert hash_files(tmp_path, ["a", "b"]) != both


def test_tables_are_byte_stable_and_come_back(tmp_path):
    table = pa.table({"name": ["a", "b", None], "value": pa.array([1.5, None, -0.0]), "lists": [[1.0], [], [2.0, 3.0]]})
    for name in ("one", "two"):
        write_table(tmp_path / name, table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_table(tmp_path / "one").equals(table)
    assert read_table(tmp_path / "one", ["value"]).column_names == ["value"]
    with pytest.raises(ArtifactError, match="three: cannot be read"):
        read_table(tmp_path / "three")


# ---- manifests


def test_the_key_depends_on_params_inputs_and_method_only(tmp_path):
    key = read_manifest(made(tmp_path / "a"))["key"]
    assert read_manifest(made(tmp_path / "elsewhere" / "b", facts={"device": "cuda"}))["key"] == key
    assert key == stage_key("fit", 1, {"a": "1"}, {"b": 2})
    others = [
        made(tmp_path / "c", params={"b": 3}),
        made(tmp_path / "d", inputs={"a": "2"}),
        made(tmp_path / "e", method=2),
    ]
    assert len({key, *(read_manifest(folder)["key"] for folder in others)}) == 4
    assert stage_key("extract", 1, {"a": "1"}, {"b": 2}) != key


def test_the_manifest_explains_every_file_but_itself_and_the_clock(tmp_path):
    manifest = read_manifest(made(tmp_path / "a", facts={"rows": 3}))
    assert set(manifest["files"]) == {"deep/table.bin", "text.txt"}
    assert manifest["files"]["text.txt"]["bytes"] == 5
    assert manifest["facts"] == {"rows": 3}
    assert {"python", "torch", "transformers", "neuronlens"} <= set(manifest["versions"])


def test_content_is_the_files_and_nothing_around_them(tmp_path):
    one, two = made(tmp_path / "a", facts={"seconds": 1}), made(tmp_path / "b", params={"b": 7})
    assert content_hash(one) == content_hash(two)
    (two / "text.txt").write_text("hallo")
    write_manifest(two, stage="fit", method=1, inputs={}, params={}, facts={})
    assert content_hash(one) != content_hash(two)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no_manifest"])
def test_damage_is_noticed(tmp_path, damage):
    folder = made(tmp_path / "a")
    assert is_intact(folder)
    file = folder / "deep" / "table.bin"
    if damage == "flip":
        file.write_bytes(b"abd")
    elif damage == "truncate":
        file.write_bytes(b"ab")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        (folder / MANIFEST).write_text("{")
    else:
        (folder / MANIFEST).unlink()
    assert not is_intact(folder)


def test_a_manifest_that_says_something_else_is_damaged(tmp_path):
    made(tmp_path)
    before = content_hash(tmp_path), manifest_hash(tmp_path)
    file = tmp_path / MANIFEST
    known = json.loads(file.read_text())
    write_json(file, known | {"facts": {"device": "another"}})
    assert not is_intact(tmp_path)
    assert content_hash(tmp_path) == before[0]
    assert manifest_hash(tmp_path) != before[1]
    del known["digest"]  # as earlier versions wrote it
    write_json(file, known)
    assert is_intact(tmp_path)


def test_touching_a_file_is_no_damage(tmp_path):
    folder = made(tmp_path / "a")
    os.utime(folder / "text.txt", (1, 1))
    (folder / TIMING).write_text("other times")
    assert is_intact(folder)


def spoilt(folder, **changed):
    write_json(folder / MANIFEST, {**read_json(folder / MANIFEST), **changed})
    return folder


def test_a_newer_schema_is_refused(tmp_path):
    folder = spoilt(made(tmp_path / "a"), schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(
        ArtifactError, match=rf"schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}.*upgrade"
    ):
        read_manifest(folder)
    assert not is_intact(folder)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        *(("schema_version", value, "does not say which version") for value in (None, "1", True, 0, 1.0)),
        ("files", [], "files is not"),
        ("files", {"text.txt": {"bytes": "3"}}, "the file text.txt is not"),
        ("files", {"text.txt": 3}, "the file text.txt is not"),
        *(
            ("files", {name: {"bytes": 3, "sha256": "0"}}, "outside of its folder")
            for name in ("../a/text.txt", "/etc/passwd", "a/../../b", "a\0b")
        ),
        ("facts", None, "facts is not"),
        ("key", 3, "key is not"),
    ],
)
def test_a_manifest_that_is_not_what_it_has_to_be_is_damaged(tmp_path, name, value, told):
    folder = spoilt(made(tmp_path / "a"), **{name: value})
    with pytest.raises(ArtifactError, match=rf"manifest\.json: cannot be read \(.*{told}.*delete its folder") as caught:
        read_manifest(folder)
    assert str(caught.value).isprintable()
    assert not is_intact(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "", "\x00", '{"schema_version": 1' + "0" * 5000 + "}"])
def test_json_that_is_no_manifest_is_damaged(tmp_path, text):
    folder = made(tmp_path / "a")
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot be read"):
        read_manifest(folder)
