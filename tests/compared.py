"""Audits of one data set: of a checkpoint, of the same one saved again, and of one that was trained on (its weights moved a little)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from neuronlens.config import Config
from neuronlens.params import load_config
from neuronlens.stages import STAGES, release_memory, run_stage
from tests.conftest import labelled, sentences
from tests.models import save_checkpoint


@dataclass(frozen=True)
class Audits:
    """Folders of audits, and what each was told."""

    first: Path
    again: Path
    moved: Path
    configs: dict[str, Config]


@pytest.fixture(scope="session")
def audits(tmp_path_factory: pytest.TempPathFactory) -> Audits:
    """Of tiny GPT-2 models, with ordinary text and the tuned method."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("compared")
    save_checkpoint(folder / "checkpoint-1", "gpt2")
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint-1")
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint-1")
    model.save_pretrained(folder / "checkpoint-2", max_shard_size="4KB")  # other files, the same weights
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
    model.save_pretrained(folder / "checkpoint-3")
    for name in ("checkpoint-2", "checkpoint-3"):
        tokenizer.save_pretrained(folder / name)
    rows = labelled(test=8, validation=4)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        writer.writerows(zip(rows.text, rows.concept, rows.split, strict=True))
    (folder / "aux.txt").write_text("\n".join(sentences(8, seed=1)))
    configs = {}
    names = {"first": "checkpoint-1", "again": "checkpoint-2", "moved": "checkpoint-3"}
    for which, name in names.items():
        configs[which] = load_config(
            None,
            [
                f"checkpoint.path={folder / name}",
                f"dataset.path={folder / 'data.csv'}",
                f"evaluate.auxiliary={folder / 'aux.txt'}",
                "fit.rows=all",
                "fit.saliency=mean_abs",
                "interventions.tau=2.0",
                "interventions.top=[0.3]",
                "evaluate.bootstrap=100",
            ],
        )
        for stage in STAGES:
            run_stage(stage, configs[which], folder / "audits" / name)
    release_memory()
    return Audits(*(folder / "audits" / name for name in names.values()), configs)


@pytest.fixture(scope="session")
def configs(audits: Audits) -> dict[str, Config]:
    """What the audits were told."""
    return audits.configs
