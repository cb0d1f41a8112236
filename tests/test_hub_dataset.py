"""Data sets of the hub, from a local folder laid out as one."""

from __future__ import annotations

from collections import Counter

import pytest

from neuronlens.config import DatasetParams
from neuronlens.dataset import freeze_hub_dataset, load_dataset, locate_dataset
from neuronlens.errors import DatasetError


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"body": datasets.Value("string"), "topic": datasets.ClassLabel(names=["health", "sports"])}
    )
    folder = tmp_path / "owner" / "topics"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = {"body": [f"{split} text {i}" for i in range(12)], "topic": [i % 2 for i in range(12)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return folder


def test_a_hub_data_set_is_frozen_with_the_names_of_its_classes(hub_folder, tmp_path):
    file = freeze_hub_dataset(str(hub_folder), text="body", label="topic", cache=tmp_path / "frozen")
    dataset = load_dataset(file, text="body", label="topic")
    assert dataset.concepts == ("health", "sports")
    assert dataset.concept[dataset.text.index("test text 3")] == "sports"
    assert Counter(dataset.split)["test"] == 12
    assert set(dataset.split) == {"fit", "validation", "test"}


def test_a_frozen_data_set_cannot_change_under_an_audit(hub_folder, tmp_path):
    how = {"text": "body", "label": "topic", "cache": tmp_path / "frozen"}
    file = freeze_hub_dataset(str(hub_folder), **how)
    before = file.read_bytes()
    for part in (hub_folder / "data").iterdir():
        part.unlink()
    assert freeze_hub_dataset(str(hub_folder), **how) == file
    assert file.read_bytes() == before


def test_a_hub_column_that_is_missing_is_named(hub_folder, tmp_path):
    with pytest.raises(DatasetError, match=r"has no column 'text'. .*Name the column with --text"):
        freeze_hub_dataset(str(hub_folder), text="text", label="topic", cache=tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()


def test_a_hub_data_set_that_cannot_be_had(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DatasetError, match=r"hub:owner/nothing: cannot be had from the hub .*Check the name and the network"
    ):
        freeze_hub_dataset("owner/nothing", text="text", label="label", cache=tmp_path / "frozen")


def test_the_name_of_a_hub_data_set(monkeypatch, tmp_path):
    monkeypatch.setattr("neuronlens.dataset.freeze_hub_dataset", lambda *_, **__: tmp_path / "frozen.parquet")
    assert locate_dataset(DatasetParams(path="hub:owner/topics@v1")) == (
        tmp_path / "frozen.parquet",
        "owner--topics-v1",
    )
