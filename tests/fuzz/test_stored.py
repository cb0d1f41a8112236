"""What lies in an audit's folder and beside it: manifests, JSON documents, tables, records, the index, lenses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flows import services
from neuronlens.activations.store import read_activations, read_neuron, shard_path
from neuronlens.artifact import read_json, read_table
from neuronlens.interventions.lens import Lens
from neuronlens.report.index import read as read_index
from neuronlens.sites import Site
from neuronlens.stages import STAGES
from tasks.catalogue import listed, trend
from tasks.lines import RECORD, Line
from tasks.tracking.store import Store
from tasks.versioning import LOCKS, Workspace
from tests.fuzz.spoilt import JSON, NASTY, spoilt_bytes, spoilt_json
from tests.fuzz.tried import Tried, often
from tests.golden.make import COMPARISON, LENS, thawed
from tests.report.test_index import index_of, made
from tests.tasks.test_lines import decision

AFTER = Path("after")
SITE = "resid_post.1"
SHOW: tuple[list[str], ...] = (["show", "after"], ["gate", "after"], ["show", "after", "--json"])
LOOK = (*SHOW, ["neuron", "after", f"{SITE}:3"], ["export", "after", "--concept", "health", "-o", "x.lens"])


@contextmanager
def other(file: Path, content: bytes) -> Iterator[None]:
    """A file that holds something else for a while."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@often(5, 250)
@given(data=st.data(), stage=st.sampled_from([*STAGES]), line=st.sampled_from(LOOK))
def test_manifests_of_any_values(tried: Tried, audits: Path, data: st.DataObject, stage: str, line: list[str]) -> None:
    file = AFTER / stage / "manifest.json"
    with other(file, as_json(data.draw(spoilt_json(read_json(file))))):
        tried.assert_told(line)


FACTS = ["prepare", "extract", "fit", "evaluate", "report"]


@often(3, 200)
@given(data=st.data(), stage=st.sampled_from(FACTS))
def test_facts_of_any_values(tried: Tried, audits: Path, data: st.DataObject, stage: str) -> None:
    file = AFTER / stage / "manifest.json"
    manifest = read_json(file)
    manifest["facts"] = data.draw(spoilt_json(manifest["facts"]))
    workspace(audits)
    with other(file, as_json(manifest)):
        tried.assert_told(["list"], ["neuron", "after", f"{SITE}:3"])


@often(6, 300)
@given(data=st.data(), line=st.sampled_from(LOOK))
def test_documents_of_any_values(tried: Tried, audits: Path, data: st.DataObject, line: list[str]) -> None:
    file = AFTER / "report" / "audit.json"
    with other(file, as_json(data.draw(spoilt_json(read_json(file))))):
        tried.assert_told(line)


@often(3, 150)
@given(data=st.data(), name=st.sampled_from(["audit.json", "metrics.json", "manifest.json", "explorer.json"]))
def test_documents_of_any_bytes(tried: Tried, audits: Path, data: st.DataObject, name: str) -> None:
    file = AFTER / "report" / name
    with other(file, data.draw(spoilt_bytes(file.read_bytes()))):
        tried.assert_told(*SHOW[:2])


TABLES = [
    *(f"fit/{name}.parquet" for name in ("statistics", "ranges", "polysemanticity", "overlap", "jaccard", "examples")),
    *(f"evaluate/{name}.parquet" for name in ("results", "chosen", "validation", "contrasts")),
    *("prepare/dataset.parquet", "extract/rows.parquet"),
]


@often(6, 350)
@given(data=st.data(), name=st.sampled_from(TABLES), line=st.sampled_from(LOOK[3:]), footer=st.booleans())
def test_tables_of_any_bytes(
    tried: Tried, audits: Path, data: st.DataObject, name: str, line: list[str], footer: bool
) -> None:
    file = AFTER / name
    whole = file.read_bytes()
    since = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little") if footer else 0
    with other(file, data.draw(spoilt_bytes(whole, since=since))):
        tried.assert_told(line)


@often(10, 400)
@given(data=st.data(), shard=st.booleans())
def test_activations_of_any_bytes(tried: Tried, audits: Path, data: st.DataObject, shard: bool) -> None:
    folder, site = AFTER / "extract", Site.parse(SITE)
    file = shard_path(folder, site, 0) if shard else folder / "rows.parquet"
    dataset = read_table(AFTER / "prepare" / "dataset.parquet")
    with other(file, data.draw(spoilt_bytes(file.read_bytes()))):
        tried.assert_read_or_refused(lambda: read_neuron(folder, site, 3) if shard else None)
        tried.assert_read_or_refused(lambda: read_activations(folder, dataset, [site]), again=True)


def workspace(root: Path) -> Workspace:
    """A workspace with the audits in it, made once."""
    found = Workspace.create(root)
    (root / "audits").mkdir(exist_ok=True)
    for name in ("before", "after"):
        place = root / "audits" / name
        if not place.exists():
            place.symlink_to(root / name)
            (root / name / "dvc.yaml").write_text("stages: {}\n")
    return found


RECORDED = (
    as_json(vars(decision("checkpoint-1")) | {"gates": [{"verdict": "PASS", "waived": None}], "audit": "after"}) + b"\n"
)


@often(10, 400)
@given(value=spoilt_json(json.loads(RECORDED)) | JSON, content=spoilt_bytes(RECORDED))
def test_records_of_lines(tried: Tried, tmp_path: Path, value: Any, content: bytes) -> None:
    line = Line(tmp_path, "run", "run")
    line.folder.mkdir(parents=True, exist_ok=True)
    (line.folder / RECORD).write_bytes(as_json(value) + b"\n" + content)
    tried.assert_read_or_refused(line.decisions, RECORD)
    (line.folder / RECORD).write_bytes(as_json(value) + b"\n")
    tried.assert_read_or_refused(lambda: [listed(tmp_path, []), trend(tmp_path, [], "run")], RECORD, again=True)


INDEX = index_of(made("one"), made("two", line="run", order=3)).encode()


@often(10, 300)
@given(content=spoilt_bytes(INDEX), name=NASTY)
def test_the_index_over_all_audits(tried: Tried, content: bytes, name: str) -> None:
    text = content.decode(errors="replace")
    tried.assert_read_or_refused(lambda: index_of(*read_index(text)[0], made(name.encode(errors="replace").decode())))


@often(8, 200)
@given(
    value=JSON | st.fixed_dictionaries({"sqlite:///x": JSON}),
    content=spoilt_bytes(b'{"mlflow": {"pid": 1, "port": 2}}'),
)
def test_notes_beside_them(tried: Tried, tmp_path: Path, value: Any, content: bytes) -> None:
    own = Workspace.create(tmp_path)
    place = tmp_path / ".dvc" / LOCKS
    place.mkdir(parents=True, exist_ok=True)
    (tmp_path / "x").touch()
    (place / "noted.json").write_bytes(as_json(value))
    (place / "services.json").write_bytes(content)
    tried.assert_read_or_refused(lambda: Store("sqlite:///x", own).known("key"))
    tried.assert_read_or_refused(lambda: services.running(tmp_path), again=True)


@often(12, 600)
@given(content=spoilt_bytes(LENS.read_bytes()))
def test_lenses_of_any_bytes(tried: Tried, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lens").write_bytes(content)
    tried.assert_read_or_refused(lambda: Lens.load(tmp_path / "lens"), "lens")


@often(1, 30)
@given(data=st.data())
def test_comparisons_of_any_values(tried: Tried, audits: Path, data: st.DataObject) -> None:
    place = audits / "comparisons" / "before--after"
    if not place.exists():
        thawed(COMPARISON, audits / "comparisons").joinpath("comparison").rename(place)
    file = place / data.draw(st.sampled_from(["comparison.json", "manifest.json"]))
    with other(file, as_json(data.draw(spoilt_json(read_json(file))))):
        tried.assert_told(["gate", "after", "--since", "before"], ["compare", "before", "after"])
