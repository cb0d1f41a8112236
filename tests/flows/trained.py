"""Checkpoints that a training run has left some time ago."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def aged(folder: Path) -> Path:
    """As if nothing had happened in a folder for a while."""
    then = time.time() - 100
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    return folder


def trained(run: Path, step: int, *, size: float = 0.05) -> Path:
    """A checkpoint that follows the last one."""
    last = max(run.iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    model = AutoModelForCausalLM.from_pretrained(last)
    torch.manual_seed(step)
    with torch.no_grad():
        for weight in model.parameters():
            weight += size * torch.randn_like(weight)
    model.save_pretrained(run / f"checkpoint-{step}")
    AutoTokenizer.from_pretrained(last).save_pretrained(run / f"checkpoint-{step}")
    return aged(run / f"checkpoint-{step}")
