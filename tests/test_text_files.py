"""Documents for perplexity, read from anybody's file."""

from __future__ import annotations

import json

import pytest

from neuronlens.errors import DatasetError
from neuronlens.text_files import read_documents


def test_documents_for_perplexity(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\nthree\n", encoding="utf-8-sig")
    assert read_documents(str(tmp_path / "a.txt"), 2) == ["one", "two"]
    rows = [{"text": "one"}, {"text": None}, {"text": "two"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_documents(str(tmp_path / "b.jsonl"), 9) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "evaluate.auxiliary: .*no such file"),
        ("blank.txt", b"\n \n", "holds no text"),
        ("latin.txt", b"caf\xe9\n", "is not UTF-8"),
        ("x.csv", b"words\na\n", "has no column 'text'"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_documents(str(tmp_path / name), 5)
