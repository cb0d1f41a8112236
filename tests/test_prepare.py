"""Preparation refuses at once, before any weight is read, what a later stage would trip over."""

from __future__ import annotations

import pytest

from neuronlens.artifact import read_table
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import Config
from neuronlens.errors import UserError
from neuronlens.prepare import check, prepare
from tests.models import CONCEPTS


@pytest.fixture
def settings(checkpoints, dataset, tmp_path):
    """A configuration that fits, and changes to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "topics.parquet"
    columns = {"text": list(dataset.text), "label": list(dataset.concept), "split": list(dataset.split)}
    pq.write_table(pa.table(columns), file)

    def of(family="bert", **changes):
        values = {"checkpoint": {"path": str(checkpoints(family).path)}, "dataset": {"path": str(file)}}
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value}
        return Config.model_validate(values)

    return of


def test_what_is_prepared_is_the_data_and_what_it_was_checked_against(settings, dataset, checkpoints, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    facts = prepare(settings(), {}, out)
    table = read_table(out / "dataset.parquet")
    assert table.column_names == ["row", "text", "concept", "split"]
    assert table["text"].to_pylist() == list(dataset.text)
    assert facts["checkpoint"]["fingerprint"] == checkpoints("bert").fingerprint
    assert facts["checkpoint"]["kind"] == "classifier"
    assert facts["rows"] == {name: {"fit": 8, "validation": 1, "test": 3} for name in CONCEPTS}
    assert facts["labels"]["sports"] == {"id": 3, "text": "sports"}
    assert facts["sites"] == ["resid_post.2"]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"extract": {"sites": "resid_post.9"}}, "layer 9 does not exist"),
        ("bert", {"interventions": {"top": 0.01}}, r"interventions\.top: top = 0\.01 of 16 neurons is less than one"),
        ("bert", {"dataset": {"label": "topic"}}, "has no column 'topic'"),
        ("bert", {"dataset": {"labels": {"sports": "sport"}}}, "concept 'sports' is no class"),
        ("gpt2", {"dataset": {"labels": {"sports": " a", "health": " a"}}}, "begin with the same token"),
        ("gpt2", {"dataset": {"max_tokens": 4, "prompt": "{text} a prompt longer than that"}}, "the prompt alone has"),
        ("gpt2", {"evaluate": {"auxiliary": "nowhere.txt"}}, "evaluate.auxiliary: .*no such file"),
        ("gpt2", {"evaluate": {"questions": "nowhere.jsonl"}}, "evaluate.questions: .*no such file"),
        ("bert", {"evaluate": {"questions": "nowhere.jsonl"}}, "evaluate.questions: .*no such file"),
        ("bert", {"evaluate": {"scoring": "generate"}}, "a classifier generates no text"),
        (
            "gpt2",
            {"dataset": {"max_tokens": 64, "prompt": "{text}" + " bank" * 64}, "evaluate": {"scoring": "generate"}},
            "the prompt alone has",
        ),
        ("bert", {"checkpoint": {"path": "./nowhere"}}, "no such folder"),
        ("bert", {"dataset": {"path": "./nowhere.csv"}}, "no such file"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weight_is_read(settings, monkeypatch, family, changes, message):
    def read(_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(Checkpoint, "model", property(read))
    with pytest.raises(UserError, match=message):
        check(settings(family, **changes))


def test_labels_that_begin_alike_can_be_generated(settings):
    begin_alike = {"labels": {"sports": " old", "health": " old news"}}
    assert check(settings("gpt2", dataset=begin_alike, evaluate={"scoring": "generate"})).labels.longest > 1
    with pytest.raises(UserError, match="begin with the same token"):
        check(settings("gpt2", dataset=begin_alike))


def test_questions_are_checked_against_the_tokenizer(settings, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "Which?", "choices": ["one", "two"], "answer": "A"}')
    with pytest.raises(UserError, match="the answer ' A' is no single token"):
        check(settings("gpt2", evaluate={"questions": str(file)}))
    check(settings("bert", evaluate={"questions": str(file)}))  # a classifier is not asked


def test_what_can_work_is_found_without_reading_the_weights(settings, monkeypatch):
    monkeypatch.setattr(Checkpoint, "model", property(lambda _: pytest.fail("the weights were read")))
    for family in ("bert", "llama"):
        found = check(settings(family))
        assert found.labels.concepts == CONCEPTS
        assert [str(site) for site in found.sites] == ["resid_post.2"]
