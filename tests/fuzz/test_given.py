"""What an audit is told: params.yaml, single values, labelled text, questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.config import Config
from neuronlens.dataset import load_dataset
from neuronlens.questions import read_questions
from neuronlens.text_files import read_documents
from tests.conftest import ROOT, labelled
from tests.fuzz.spoilt import JSON, NASTY, spoilt_bytes, spoilt_json
from tests.fuzz.tried import Tried, often

PARAMS = (ROOT / "params.yaml").read_bytes()
SECTIONS = yaml.safe_load(PARAMS)
KEYS = [
    f"{section}.{name}"
    for section, model in Config.model_fields.items()
    for name in getattr(model.annotation, "model_fields", ())
]
CELL = st.none() | st.text(max_size=6) | NASTY.filter(lambda text: "\ud800" not in text)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*options: str | Path) -> list[str | Path]:
    return ["plan", *options, "--set", "checkpoint.path=nowhere"]


@often(10, 500)
@given(content=spoilt_bytes(PARAMS))
def test_params_of_any_bytes(tried: Tried, here: Path, content: bytes) -> None:
    (here / "other.yaml").write_bytes(content)
    tried.assert_told(plan("--params", "other.yaml"))


@often(6, 300)
@given(value=spoilt_json(SECTIONS))
def test_params_of_any_values(tried: Tried, here: Path, value: Any) -> None:
    (here / "other.yaml").write_text(yaml.safe_dump(value), encoding="utf-8", errors="surrogatepass")
    tried.assert_told(plan("--params", "other.yaml"))


@often(12, 600)
@given(key=st.sampled_from(KEYS) | st.text(max_size=8), value=JSON.map(json.dumps) | st.text(max_size=12))
def test_single_values(tried: Tried, key: str, value: str) -> None:
    tried.assert_told(plan("--set", f"{key}={value}"))


def table(rows: list[tuple[Any, ...]], delimiter: str = ",") -> bytes:
    return "\n".join(
        [delimiter.join(("text", "label", "split")), *(delimiter.join(map(str, row)) for row in rows)]
    ).encode()


ROWS = labelled(("a", "b"))
WHOLE = [*zip(ROWS.text, ROWS.concept, ROWS.split, strict=True)]


def read(file: Path) -> Callable[[], object]:
    return lambda: load_dataset(file)


@often(40, 1000)
@given(content=spoilt_bytes(table(WHOLE)))
def test_csv_of_any_bytes(tried: Tried, here: Path, content: bytes) -> None:
    (here / "data.csv").write_bytes(content)
    tried.assert_read_or_refused(read(here / "data.csv"), "data.csv")


@often(30, 1000)
@given(rows=st.lists(st.tuples(CELL, CELL, st.sampled_from(["train", "test", "", "x"]) | CELL), max_size=8))
def test_tables_of_any_cells(tried: Tried, here: Path, rows: list[tuple[Any, ...]]) -> None:
    (here / "data.tsv").write_bytes(table([*WHOLE, *rows], "\t"))
    tried.assert_read_or_refused(read(here / "data.tsv"), "data.tsv")


@often(30, 1000)
@given(
    rows=st.lists(JSON.map(json.dumps) | st.text(max_size=12), max_size=4),
    content=spoilt_bytes(b'{"text":"a b","label":"c"}\n' * 3),
)
def test_json_lines(tried: Tried, here: Path, rows: list[str], content: bytes) -> None:
    (here / "data.jsonl").write_bytes(content + "\n".join(rows).encode(errors="surrogatepass"))
    tried.assert_read_or_refused(read(here / "data.jsonl"), "data.jsonl")


def parquet(columns: dict[str, pa.Array]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


COLUMNS = {"text": pa.array(ROWS.text), "label": pa.array(ROWS.concept), "split": pa.array(ROWS.split)}
PARQUET = parquet(COLUMNS)


@often(30, 1000)
@given(content=spoilt_bytes(PARQUET))
def test_parquet_of_any_bytes(tried: Tried, here: Path, content: bytes) -> None:
    (here / "data.parquet").write_bytes(content)
    tried.assert_read_or_refused(read(here / "data.parquet"), "data.parquet")


@often(30, 1200)
@given(content=spoilt_bytes(PARQUET, since=len(PARQUET) - 900))
def test_parquet_of_any_footer(tried: Tried, here: Path, content: bytes) -> None:
    (here / "data.parquet").write_bytes(content)
    tried.assert_read_or_refused(read(here / "data.parquet"), "data.parquet")


TYPES = [
    *(
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float64(),
        pa.bool_(),
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.null(),
    ),
    *(
        pa.date32(),
        pa.timestamp("ns"),
        pa.duration("s"),
        pa.decimal128(20, 2),
        pa.list_(pa.int8()),
        pa.struct({"a": pa.int8()}),
    ),
    *(
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int8(), pa.int64()),
        pa.list_(pa.string(), 2),
        pa.string_view(),
    ),
]


@often(30, 600)
@given(data=st.data(), name=st.sampled_from(["text", "label", "split"]), kind=st.sampled_from(TYPES))
def test_columns_of_any_type(tried: Tried, here: Path, data: st.DataObject, name: str, kind: pa.DataType) -> None:
    values = data.draw(
        st.lists(st.none() | st.integers(0, 3) | st.text(max_size=3) | st.binary(max_size=3), min_size=3, max_size=3)
    )
    column = pa.nulls(len(ROWS), kind)
    for value in values:
        try:
            column = pa.array([value] * len(ROWS), kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            continue
    try:
        (here / "data.parquet").write_bytes(parquet({**COLUMNS, name: column}))
    except pa.ArrowException:  # Parquet has no such type
        (here / "data.parquet").write_bytes(PARQUET)
    tried.assert_read_or_refused(read(here / "data.parquet"), "data.parquet")


QUESTION = {"question": "which", "choices": ["a", "b", "c"], "answer": 1, "subject": "s"}


@often(20, 600)
@given(value=spoilt_json(QUESTION) | JSON, content=spoilt_bytes(json.dumps(QUESTION).encode()))
def test_questions(tried: Tried, here: Path, value: Any, content: bytes) -> None:
    (here / "q.jsonl").write_bytes(json.dumps(value).encode() + b"\n" + content)
    tried.assert_read_or_refused(lambda: read_questions(str(here / "q.jsonl")), "q.jsonl")


@often(20, 500)
@given(
    content=spoilt_bytes(b"one document\nand another one\n"),
    name=st.sampled_from(["a.txt", "a.csv", "a.jsonl", "a.parquet", "a.bin"]),
)
def test_ordinary_text(tried: Tried, here: Path, content: bytes, name: str) -> None:
    (here / name).write_bytes(content)
    tried.assert_read_or_refused(lambda: read_documents(str(here / name), 3), name)
