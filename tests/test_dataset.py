"""Labelled text from anybody's file: read, checked, and split so that no text stands on two sides."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import DatasetParams
from neuronlens.dataset import (
    Dataset,
    dataset_fingerprint,
    load_dataset,
    read_dataset,
)
from neuronlens.errors import DatasetError

ROWS = [
    {"text": f"{word} number {i}", "label": label, "split": split}
    for i, (word, label, split) in enumerate(
        (word, label, split)
        for split in ("train", "validation", "test")
        for label, word in (("sports", 'goal, "near"\npost'), ("health", "nurse\tward"), ("law", "court é中"))
        for _ in range(3)
    )
]


def write(file: Path, rows=ROWS) -> Path:
    """Rows in the format of the file's ending."""
    columns = list(rows[0])
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix in (".csv", ".tsv"):
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, columns, delimiter="," if file.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def refused(*args, **how) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(*args, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_rows(dataset: Dataset) -> set:
    return set(zip(dataset.text, dataset.concept, dataset.split, strict=True))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".CSV"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    """Newlines, quotes, tabs and letters of other scripts included."""
    file = write(tmp_path / f"topics{ending.lower()}")
    dataset = load_dataset(file.rename(tmp_path / f"topics{ending}"))
    assert list(dataset.text) == [row["text"] for row in ROWS]
    assert list(dataset.concept) == [row["label"] for row in ROWS]
    assert Counter(dataset.split) == {"fit": 9, "validation": 9, "test": 9}
    assert list(dataset.row) == list(range(27))
    assert (dataset.name, dataset.concepts, dataset.notes) == ("topics", ("health", "law", "sports"), ())


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.int8(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()]
)
def test_labels_of_any_type_become_text(tmp_path, kind):
    numbers = ["0", "1", "1", "0", "0", "1", "1", "0"]
    labels = (
        pa.array(numbers).cast(pa.int64()).cast(kind) if pa.types.is_integer(kind) else pa.array(numbers).cast(kind)
    )
    table = pa.table({"text": [f"t{i}" for i in range(8)], "label": labels, "split": ["train"] * 4 + ["test"] * 4})
    pq.write_table(table, tmp_path / "data.parquet")
    dataset = load_dataset(tmp_path / "data.parquet")
    assert dataset.concepts == ("0", "1")
    assert dataset.name == f"{tmp_path.name}-data", "data.parquet says nothing, its folder does"


def test_labels_of_a_csv_keep_their_spelling(tmp_path):
    """007 is a name, not a number."""
    rows = [{**row, "label": {"sports": "007", "health": "008", "law": "010"}[row["label"]]} for row in ROWS]
    assert load_dataset(write(tmp_path / "codes.csv", rows)).concepts == ("007", "008", "010")


def test_other_column_names(tmp_path):
    rows = [{"sentence": row["text"], "topic": row["label"], "part": row["split"]} for row in ROWS]
    file = write(tmp_path / "x.jsonl", rows)
    assert as_rows(load_dataset(file, text="sentence", label="topic", split="part")) == as_rows(
        load_dataset(write(tmp_path / "y.jsonl"))
    )


@pytest.mark.parametrize("names", [("train", "val", "test"), ("TRAIN", "dev", "testing"), (" fit ", "eval", "Test")])
def test_the_usual_names_of_splits(tmp_path, names):
    spelt = dict(zip(("train", "validation", "test"), names, strict=True))
    dataset = load_dataset(write(tmp_path / "x.csv", [{**row, "split": spelt[row["split"]]} for row in ROWS]))
    assert Counter(dataset.split) == {"fit": 9, "validation": 9, "test": 9}


# ---- splits that are made


def unsplit(count=40, concepts=("a", "b", "c")):
    return [{"text": f"{name} {i}", "label": name} for name in concepts for i in range(count)]


def test_made_splits_are_stratified_and_told_of(tmp_path):
    dataset = load_dataset(write(tmp_path / "x.csv", unsplit()))
    assert Counter(zip(dataset.concept, dataset.split, strict=True)) == {
        (name, split): count for name in "abc" for split, count in (("fit", 24), ("validation", 8), ("test", 8))
    }
    assert dataset.notes == ("splits made from the data: fit 60%, validation 20%, test 20%",)


def test_made_splits_depend_on_the_seed_and_not_on_the_order_of_rows(tmp_path):
    rows = unsplit()
    shuffled = random.Random(0).sample(rows, len(rows))
    one = load_dataset(write(tmp_path / "one.csv", rows))
    assert as_rows(one) == as_rows(load_dataset(write(tmp_path / "two.csv", shuffled)))
    assert as_rows(one) != as_rows(load_dataset(tmp_path / "one.csv", seed=1))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("pqrstuvwxyz"), st.sampled_from("ab")), min_size=24, max_size=60), st.randoms()
)
def test_equal_texts_never_straddle_and_order_never_matters(tmp_path_factory, pairs, random):
    """Also where one text stands under two labels."""
    rows = [{"text": text, "label": label} for text, label in pairs]
    folder = tmp_path_factory.getbasetemp()
    try:
        dataset = load_dataset(write(folder / "straddle.jsonl", rows))
    except DatasetError:
        return  # a concept was left without rows
    homes: dict[str, set] = {}
    for text, split in zip(dataset.text, dataset.split, strict=True):
        homes.setdefault(text, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    random.shuffle(rows)
    assert as_rows(load_dataset(write(folder / "straddle.jsonl", rows))) == as_rows(dataset)


def test_a_new_row_moves_few_others(tmp_path):
    """A text's place is its own hash, so growing a data set by one leaves nearly all rows where they were."""
    rows = unsplit(100)
    one = as_rows(load_dataset(write(tmp_path / "one.csv", rows)))
    two = as_rows(load_dataset(write(tmp_path / "two.csv", [{"text": "new", "label": "a"}, *rows])))
    assert len(one - two) <= 4


@pytest.mark.parametrize(
    ("given", "made"),
    [(("train", "test"), "validation"), (("train", "validation"), "test"), (("train",), "validation and test")],
)
def test_a_split_that_is_missing_is_taken_from_fit(tmp_path, given, made):
    rows = [
        {**row, "split": split}
        for split in given
        for row in ({"text": f"{split} {r['text']}", "label": r["label"]} for r in unsplit(20))
    ]
    dataset = load_dataset(write(tmp_path / "x.csv", rows))
    count = Counter(dataset.split)
    assert set(count) == {"fit", "validation", "test"}
    for split in given[1:]:
        assert count[split] == 60
    assert dataset.notes == (f"split {made} taken from fit",)


def test_leaked_texts_are_kept_in_the_latest_split_only(tmp_path):
    rows = [
        *ROWS,
        {"text": ROWS[-1]["text"], "label": "law", "split": "train"},
        {"text": ROWS[9]["text"], "label": "sports", "split": "train"},
    ]
    dataset = load_dataset(write(tmp_path / "x.jsonl", rows))
    assert as_rows(dataset) == as_rows(load_dataset(write(tmp_path / "y.jsonl")))
    assert dataset.notes == ("2 rows dropped whose text also stands in a later split",)
    assert list(dataset.row) == list(range(27))


def test_rows_without_text_are_dropped_and_the_others_keep_their_numbers(tmp_path):
    rows = [{**row, "text": {0: "  ", 5: None}.get(i, row["text"])} for i, row in enumerate(ROWS)]
    dataset = load_dataset(write(tmp_path / "x.parquet", rows))
    assert list(dataset.row) == [i for i in range(27) if i not in (0, 5)]
    assert dataset.notes == ("2 rows without text dropped",)


# ---- what is refused


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_named_with_the_cure(tmp_path, ending):
    file = write(tmp_path / f"x{ending}", [{"txt": row["text"], "label": row["label"]} for row in ROWS])
    assert refused(file) == f"{file}: has no column 'text'. Did you mean 'txt'? Name the column with --text."
    assert "has no column 'topic'. Known: txt, label. Name the column with --label." in refused(
        file, text="txt", label="topic"
    )


def test_a_column_in_capitals_is_found(tmp_path):
    file = write(tmp_path / "x.csv", [{"TEXT": row["text"], "label": row["label"]} for row in ROWS])
    assert refused(file) == f"{file}: has no column 'text'. Did you mean 'TEXT'? Name the column with --text."


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_of_other_separators_is_told_apart_from_one_of_other_columns(tmp_path, separator):
    """Spreadsheets write semicolons where the comma is a decimal sign."""
    file = tmp_path / "x.csv"
    file.write_text(f"text{separator}label\na{separator}b\n", encoding="utf-8")
    assert refused(file).endswith("A .csv has commas between its columns, and a .tsv tabs.")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("encoding", "line", "byte"), [("latin-1", 3, "e9"), ("utf-16", 1, "ff")])
def test_text_that_is_not_utf_8_is_shown_where(tmp_path, ending, encoding, line, byte):
    rows = [{"text": text, "label": "a"} for text in ("plain", "caf\xe9")]
    file = write(tmp_path / f"x.{ending}", rows)
    lines = file.read_text(encoding="utf-8").replace("\\u00e9", "\xe9")
    file.write_bytes((("\n" if ending == "jsonl" else "") + lines).encode(encoding))  # a line of JSON has no head above
    assert refused(file) == f"{file}: line {line} is not UTF-8 (byte 0x{byte}). Save it as UTF-8."


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_mark_of_byte_order_is_no_part_of_the_first_name(tmp_path, ending):
    """Spreadsheets and editors of Windows put one in front."""
    file = write(tmp_path / f"x.{ending}")
    plain = as_rows(load_dataset(file))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert as_rows(load_dataset(file)) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[4].update(label=None),
            "row 5 has an empty 'label': a concept needs a name. Label or remove the row.",
        ),
        (lambda rows: rows[4].update(label="  "), "row 5 has an empty 'label'"),
        (
            lambda rows: rows[3].update(split="holdout"),
            "split 'holdout' is not known. Use train (or fit), validation and test",
        ),
        (lambda rows: rows[3].update(split=None), "split"),
        (lambda rows: [row.update(split="test") for row in rows], "no row is in the split 'train' (or 'fit')"),
        (lambda rows: [row.update(label="law") for row in rows], "holds one concept only ('law')"),
        (lambda rows: [row.update(text=" ") for row in rows], "holds no rows with text"),
        (
            lambda rows: [row.update(label="rare") for row in rows[:1]],
            "concept 'rare' has 1 rows in the split 'fit', at least 2 needed",
        ),
        (
            lambda rows: [row.update(split="train") for row in rows if (row["label"], row["split"]) == ("law", "test")],
            "concept 'law' has 0 rows in the split 'test', at least 1 needed",
        ),
    ],
)
def test_rows_that_cannot_be_audited(tmp_path, change, message):
    rows = [dict(row) for row in ROWS]
    change(rows)
    found = refused(write(tmp_path / "x.parquet", rows))
    assert found.startswith(f"{tmp_path / 'x.parquet'}: ")
    assert message in found


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file. Name a Parquet, CSV or JSON Lines file" in refused(tmp_path / "nowhere.csv")
    assert "is a folder" in refused(tmp_path)
    assert "no data set is named. Name a file with --dataset." in refused("")
    (tmp_path / "x.xlsx").write_text("x")
    assert "ending '.xlsx' is not known. Use one of .parquet, .csv" in refused(tmp_path / "x.xlsx")
    for name, content in (
        ("x.parquet", b"PAR1"),
        ("x.jsonl", b'{"text": 1\n[}'),
        ("x.csv", b"text,label\na,b,c\n"),
        ("y.csv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert f"{name}: cannot be read" in refused(tmp_path / name)
    (tmp_path / "head.csv").write_text("text,label\n")
    assert "has no rows" in refused(tmp_path / "head.csv")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "a"', "line 2: "),
        (b"[1]", "line 2 is no object"),
        (b'{"text": NaN}', "line 2: NaN is no number"),
        (b'{"text": 1' + b"0" * 5000 + b"}", "line 2: "),
        (b'{"text": [1]}', "cannot be read"),
        (b'{"text": "\\ud800"}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, told):
    """Damaged bytes among them at which Arrow's own reader has ended the process."""
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"text": "a", "label": "b"}\n' + line + b"\n")
    found = refused(file)
    assert "x.jsonl: cannot be read" in found
    assert told in found


def test_what_looks_like_a_date_stays_text(tmp_path):
    rows = [{**row, "label": {"sports": "2026-01-01", "health": "7", "law": "x"}[row["label"]]} for row in ROWS]
    assert load_dataset(write(tmp_path / "x.jsonl", rows)).concepts == ("2026-01-01", "7", "x")


def test_text_in_another_encoding_is_called_by_its_name(tmp_path):
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    assert "UTF" in refused(tmp_path / "latin.csv")


@pytest.mark.parametrize("place", ["cell", "column"])
def test_a_parquet_file_whose_text_is_no_utf_8_is_refused(tmp_path, place):
    file = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["QQQ a", "b"], "label": ["x", "y"], "ZZZ": [1, 2]}), file, compression="none")
    file.write_bytes(file.read_bytes().replace(b"QQQ" if place == "cell" else b"ZZZ", b"\x80\x80\x80"))
    with pytest.raises(DatasetError, match=r"data\.parquet: cannot be read \("):
        load_dataset(file)


def test_a_column_that_holds_no_text(tmp_path):
    pq.write_table(pa.table({"text": [["a"], ["b"]], "label": ["x", "y"]}), tmp_path / "x.parquet")
    assert "column 'text' holds list<" in refused(tmp_path / "x.parquet")


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "x.csv").write_text("text,text,label\na,b,c\nd,e,f\n")
    assert "text" in refused(tmp_path / "x.csv")


# ---- what is handed on


def test_the_artifact_comes_back(tmp_path):
    dataset = load_dataset(write(tmp_path / "x.csv"))
    pq.write_table(dataset.to_table(), tmp_path / "dataset.parquet")
    back = read_dataset(tmp_path)
    assert dataset.to_table().column_names == ["row", "text", "concept", "split"]
    assert (back.row, back.text, back.concept, back.split) == tuple(
        map(list, (dataset.row, dataset.text, dataset.concept, dataset.split))
    )


def test_the_fingerprint_is_the_files_bytes(tmp_path):
    one, two = write(tmp_path / "one.csv"), write(tmp_path / "two.csv")
    fingerprint = dataset_fingerprint(DatasetParams(path=str(one)))
    assert dataset_fingerprint(DatasetParams(path=str(two))) == fingerprint
    two.write_bytes(two.read_bytes().replace(b"goal", b"gaol", 1))
    assert dataset_fingerprint(DatasetParams(path=str(two))) != fingerprint
