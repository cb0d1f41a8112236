"""What every peer is given: a GPT-2 with random weights as a checkpoint folder, and packed rows of realistic lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.words import word_tokenizer

_FILE = "workload.json"


@dataclass(frozen=True)
class Padded:
    """A batch, padded on the right to its longest row.

    Attributes:
        inputs: input_ids, attention_mask and position_ids, [B, T] each.
        index: [B] 0 to B - 1.
        last: [B] column of each row's last token.
    """

    inputs: dict[str, torch.Tensor]
    index: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Padded:
        """Rows of token ids as tensors."""
        lengths = torch.tensor([len(row) for row in rows])
        columns = torch.arange(int(lengths.max()))
        ids = torch.zeros(len(rows), len(columns), dtype=torch.long)
        for own, row in zip(ids, rows, strict=True):
            own[: len(row)] = torch.tensor(row)
        mask = columns < lengths[:, None]
        # where padding stands does not matter, it is masked
        positions = columns.expand_as(ids).contiguous()
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
        return cls(inputs, torch.arange(len(rows)), lengths - 1)


@dataclass(frozen=True)
class Workload:
    """A checkpoint and the rows to read.

    Attributes:
        folder: the checkpoint, with the tokenizer of `benchmarks.words`.
        rows: token ids of the rows of each batch.
        batches: the same as tensors.
        rounds: how often to measure.
    """

    folder: Path
    rows: list[list[list[int]]]
    batches: list[Padded]
    rounds: int

    @classmethod
    def read(cls, folder: Path) -> Workload:
        """The workload that `write` put there."""
        given = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(folder, given["rows"], [Padded.of(batch) for batch in given["rows"]], given["rounds"])


def write(folder: Path, rows: Sequence[Sequence[Sequence[int]]], rounds: int, **sizes: int) -> None:
    """Make the checkpoint, if it is not there yet, and put the rest beside it.

    Args:
        rows: token ids of the rows of each batch, of those that `benchmarks.words` leaves free.
        rounds: how often to measure.
        sizes: of the model, where they are not GPT-2 small's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps({"rows": rows, "rounds": rounds}), encoding="utf-8")
    if (folder / "tokenizer_config.json").exists():
        return
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes))
    model.save_pretrained(folder)
    word_tokenizer(model.config.vocab_size, model.config.n_positions).save_pretrained(folder)
