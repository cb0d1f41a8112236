"""Checkpoints: an identity that depends on bytes alone, and nothing loaded that is unsafe or half there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuronlens.checkpoint import identify_checkpoint, load_checkpoint, open_checkpoint
from neuronlens.config import CheckpointParams
from neuronlens.errors import CheckpointError
from neuronlens.saved import foreign
from tests.models import CLASSIFIERS, FAMILIES, INNER


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A checkpoint folder of one's own."""

    def of(family="bert", name="run"):
        return shutil.copytree(checkpoints(family).path, tmp_path / name)

    return of


def refused(path, **how) -> str:
    with pytest.raises(CheckpointError) as caught:
        _ = load_checkpoint(path, **how).model  # the weights are read at first use
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in {**config, **changes}.items() if value is not None})
    )


# ---- identity


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_fingerprint_is_weights_tokenizer_and_config(copy, family):
    """And nothing else: not the path, not the time, not what a trainer leaves beside them."""
    folder = copy(family)
    fingerprint = load_checkpoint(folder).fingerprint
    assert len(fingerprint) == 64
    assert load_checkpoint(copy(family, "elsewhere")).fingerprint == fingerprint
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    for name in ("optimizer.pt", "trainer_state.json", "README.md", "training_args.bin", "rng_state.pth"):
        (folder / name).write_text("x")
    assert load_checkpoint(folder).fingerprint == fingerprint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_one_flipped_bit_is_another_checkpoint(copy, name):
    folder = copy()
    before = load_checkpoint(folder).fingerprint
    content = bytearray((folder / name).read_bytes())
    at = len(content) - 3 if name == "model.safetensors" else content.rindex(b"e")
    content[at] ^= 1
    (folder / name).write_bytes(content)
    assert identify_checkpoint(CheckpointParams(path=str(folder)))[1] != before


def test_the_identity_is_the_same_with_and_without_loading(copy):
    folder = copy()
    name, fingerprint = identify_checkpoint(CheckpointParams(path=str(folder)))
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.name, checkpoint.fingerprint) == (name, fingerprint) == ("run", fingerprint)


def test_a_trainers_checkpoint_is_named_after_its_run(copy, tmp_path):
    assert load_checkpoint(copy(name="topics/checkpoint-400")).name == "topics-checkpoint-400"
    (tmp_path / "latest").symlink_to(tmp_path / "topics" / "checkpoint-400")
    assert load_checkpoint(tmp_path / "latest").name == "topics-checkpoint-400"


# ---- loading


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_loaded_whole_in_eval_mode_without_gradients(checkpoints, family):
    checkpoint = checkpoints(family)
    assert checkpoint.kind == ("classifier" if family in CLASSIFIERS else "language_model")
    model = checkpoint.model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    stored = load_file(checkpoint.path / "model.safetensors")
    loaded = model.state_dict()
    assert stored
    assert all(torch.equal(loaded[name].cpu(), tensor) for name, tensor in stored.items() if name in loaded)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_the_dtype_asked_for(checkpoints, dtype, expected):
    path = checkpoints("llama").path
    assert open_checkpoint(CheckpointParams(path=str(path), dtype=dtype)).model.dtype == expected


def test_auto_keeps_the_dtype_as_stored(checkpoints, tmp_path):
    checkpoint = load_checkpoint(checkpoints("llama").path, dtype="bfloat16")
    checkpoint.model.save_pretrained(tmp_path / "half")
    assert load_checkpoint(tmp_path / "half").model.dtype == torch.bfloat16


# ---- what is refused


def test_places_that_hold_no_checkpoint(tmp_path, copy):
    assert "no such folder. Name a checkpoint folder, or a hub id such as owner/name@revision." in refused("./nowhere")
    (tmp_path / "file").write_text("x")
    assert "is a file. Name the folder that holds config.json" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no config.json. Name the folder that save_pretrained wrote." in refused(tmp_path / "empty")
    copy(name="run/checkpoint-20")
    found = refused(tmp_path / "run")
    assert f"Did you mean {tmp_path / 'run' / 'checkpoint-20'}?" in found
    with pytest.raises(CheckpointError, match=r"no checkpoint is named. Name a folder or hub id with --checkpoint"):
        open_checkpoint(CheckpointParams())


def test_the_last_of_several_checkpoints_is_offered(tmp_path, copy):
    for step in (50, 100, 1000, 200):
        copy(name=f"run/checkpoint-{step}")
    assert f"Did you mean {tmp_path / 'run' / 'checkpoint-1000'}?" in refused(tmp_path / "run")


def test_pickled_weights_are_never_opened(copy):
    folder = copy()
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refused(folder)
    torch.save({}, folder / "pytorch_model.bin")
    found = refused(folder)
    assert "holds pickled weights only (pytorch_model.bin), which can run code when loaded" in found
    assert "Save it as safetensors: model.save_pretrained(folder)." in found


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_refused_whatever_is_installed(copy, name):
    """transformers puts one on where the package peft is installed, passes it by where it is not, and may load the model that it names."""
    folder = copy()
    (folder / name).write_text('{"base_model_name_or_path": "owner/another", "peft_type": "LORA"}')
    found = refused(folder)
    assert f"holds an adapter ({name}), which is a part of a model only" in found
    assert "Merge it into the model and save that: model.merge_and_unload().save_pretrained(folder)." in found
    (folder / "config.json").unlink()
    assert "holds an adapter" in refused(folder), "as training with an adapter leaves it"


def test_missing_tensors_are_not_left_random(copy):
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert "the weights lack 2 tensors of the model, classifier.bias among them. They would stay random" in refused(
        folder
    )


def test_damaged_weights_are_one_line(copy):
    folder = copy()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "the weights cannot be loaded" in refused(folder)


def test_weights_of_another_shape_are_refused(copy):
    folder = copy()
    set_config(folder, intermediate_size=25)
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    assert f"{name} is [{INNER}] in the weights and [25] by config.json. Copy both from one place" in refused(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_of_a_whole_model(checkpoints, family):
    assert checkpoints(family).doubts == []


def test_layers_that_the_config_does_not_count_are_told_of(copy):
    """Half a model is a model, and an audit of it looks like any other."""
    folder = copy("llama")
    set_config(folder, num_hidden_layers=1, layer_types=None)
    (told,) = load_checkpoint(folder).doubts
    assert told.startswith("the model has no place for ")
    assert told.endswith(" tensors of the weights, model.layers.1.input_layernorm.weight among them")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "t5"},
            "model type 't5' has an encoder and a decoder, which is not supported. Supported: bert, distilbert",
        ),
        (
            {"model_type": "custom", "auto_map": {"AutoConfig": "code.Config"}},
            "needs code of its own, which is never run",
        ),
        ({"architectures": ["BertForMaskedLM"]}, "architecture 'BertForMaskedLM' is neither a sequence classifier nor"),
        ({"architectures": None}, "architecture 'unknown' is neither"),
        ({"architectures": ["BertLMHeadModel"]}, "architecture 'BertLMHeadModel' is neither"),
        ({"model_type": ["bert"]}, "is not one that the installed transformers has a class for"),
        (
            {"model_type": "nonsense"},
            "model type 'nonsense' is not one that the installed transformers has a class for",
        ),
    ],
)
def test_models_that_cannot_be_audited(copy, changes, message):
    folder = copy()
    set_config(folder, **changes)
    found = refused(folder)
    assert message in found
    assert "config.json" in found


def test_code_beside_a_checkpoint_is_never_run(copy, tmp_path):
    folder = copy()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    for auto_map in ({"AutoConfig": "code.Config"}, {"AutoModelForSequenceClassification": "code.Model"}):
        set_config(folder, auto_map=auto_map)
        with contextlib.suppress(CheckpointError):
            _ = load_checkpoint(folder).model  # read at first use
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_config_that_is_none(copy, content):
    folder = copy()
    (folder / "config.json").write_text(content)
    assert "is no JSON" in refused(folder)


def test_a_checkpoint_without_tokenizer(copy):
    folder = copy()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\. Save it beside the weights"):
        _ = load_checkpoint(folder).tokenizer  # read at first use


# ---- the hub, from a local cache


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path, copy):
    """A hub cache that holds owner/topics at revision main, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    copy("gpt2", f"hub/models--owner--topics/snapshots/{SHA}")
    (tmp_path / "hub/models--owner--topics/refs").mkdir()
    (tmp_path / "hub/models--owner--topics/refs/main").write_text(SHA)
    return tmp_path / "hub"


@pytest.mark.parametrize("how", [{}, {"revision": "main"}, {"revision": SHA}])
def test_a_hub_id_is_found_in_the_cache(hub, checkpoints, how):
    checkpoint = load_checkpoint("owner/topics", **how)
    assert hub in checkpoint.path.parents
    assert checkpoint.name == "owner--topics"
    assert checkpoint.fingerprint == checkpoints("gpt2").fingerprint
    assert checkpoint.model.config.model_type == "gpt2"


@pytest.mark.usefixtures("hub")
def test_a_revision_can_be_part_of_the_id():
    assert load_checkpoint(f"owner/topics@{SHA}").path.name == SHA


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("hub_id", ["owner/nothing", "owner/topics@v9"])
def test_a_hub_id_that_cannot_be_had(hub_id):
    found = refused(hub_id)
    assert found.startswith(hub_id)
    assert "is no folder here and cannot be had from the hub" in found
    assert "Check the spelling, the revision and the network" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("cls_token", []), ("model_max_length", []), ("added_tokens_decoder", {"x": {}}), ("tokenizer_class", 3)],
)
def test_a_tokenizer_that_says_nonsense_is_one_line(copy, name, value):
    folder = copy()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot be used \(.*Save it again"):
        _ = load_checkpoint(folder).tokenizer  # read at first use


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": "many"}, {"id2label": 3}, {"hidden_act": "nothing"}, {"hidden_size": -1}]
)
def test_a_configuration_that_says_nonsense_is_one_line(copy, change):
    folder = copy()
    set_config(folder, **change)
    with pytest.raises(
        CheckpointError, match=r"(config\.json cannot be used|the weights cannot be loaded) \(.*Copy the checkpoint"
    ):
        _ = load_checkpoint(folder).model  # read at first use


def test_files_are_blamed_for_what_stumbles_over_them_and_not_for_signals(tmp_path):
    class Ended(BaseException):
        """As Prefect raises it in a run that is told to end."""

    class Panic(BaseException):
        """As a tokenizer's Rust does."""

    Panic.__module__ = "pyo3_runtime"
    for error in (KeyError("a"), RecursionError(), Panic("index out of range")):
        with pytest.raises(CheckpointError, match="cannot be used"), foreign("cannot be used", tmp_path, "Copy it."):
            raise error
    for error in (Ended(), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)), foreign("cannot be used", tmp_path, "Copy it."):
            raise error
