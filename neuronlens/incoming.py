"""Checkpoints that a training run leaves behind it, one after another, and whether one is whole.

A folder that is still being written looks like a broken one. What tells them apart is time: what is not whole and has not changed for a
while will not become whole.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuronlens.errors import UserError
from neuronlens.hub import hub_errors
from neuronlens.saved import ADAPTERS

SETTLED = 60.0
"""Seconds without a change after which a folder counts as written."""

State = Literal["whole", "being written", "broken"]

_NUMBERED = re.compile(r"checkpoint-(\d+)")
_PATIENCE = 20.0  # seconds for the hub to answer
_HEADER = 8  # bytes of a safetensors file that say how long its header is
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Incoming:
    """A checkpoint of a line.

    Attributes:
        name: what the line calls it: `checkpoint-500`.
        order: its place in the line, such as the step.
        path: its folder, or hub id.
        revision: of a hub repository, None elsewhere.
        state: `whole`, `being written`, or `broken`.
        problem: what it lacks, None where it is whole.
    """

    name: str
    order: int
    path: str
    revision: str | None = None
    state: State = "whole"
    problem: str | None = None


def in_folder(folder: Path, settled: float = SETTLED, now: float | None = None) -> list[Incoming]:
    """The checkpoints of a training run, `checkpoint-STEP` as the Hugging Face Trainer names them, in order of their steps.

    Args:
        settled: seconds without a change after which what is there counts as all there will be.
        now: seconds since the epoch; the clock's unless told otherwise.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            "no such folder",
            where=str(folder),
            cure="Name the one that the training run writes its checkpoint-STEP folders into.",
        )
    found = []
    for path in folder.iterdir():
        named = _NUMBERED.fullmatch(path.name)
        if named and path.is_dir():
            found.append(_look(path, int(named[1]), settled, time.time() if now is None else now))
    return sorted(found, key=lambda checkpoint: checkpoint.order)


def _look(path: Path, order: int, settled: float, now: float) -> Incoming:
    try:
        problem = next(what_lacks(path), None)
        latest = max((file.stat().st_mtime for file in (path, *path.iterdir())), default=0.0)
    except OSError as error:  # a file that was there a moment ago: it is being renamed
        problem, latest = str(error), now
    if problem is None and now - latest >= min(settled, 2.0):
        return Incoming(path.name, order, str(path))
    state: State = "being written" if now - latest < settled else "broken"
    return Incoming(path.name, order, str(path), None, state, problem or "it has just been written to")


def what_lacks(folder: Path) -> Iterator[str]:
    """What a checkpoint's files lack to be whole, by their headers: no weights are read."""
    yield from (f"{path.name} is of an adapter" for pattern in ADAPTERS for path in sorted(folder.glob(pattern)))
    if not (folder / "config.json").is_file():
        yield "config.json is missing"
    weights = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob("*.safetensors.index.json"))
    named = set()
    for index in indices:
        try:
            named |= {*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield f"{index.name} cannot be read"
    yield from (f"{name} is missing" for name in sorted(named) if not (folder / name).is_file())
    if not weights and not named:
        yield "there are no safetensors weights"
    for file in weights:
        problem = truncated(file)
        if problem:
            yield problem


def truncated(file: Path) -> str | None:
    """What is wrong with the length of a safetensors file, by what its header says; None where it is right."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(_HEADER)
        if len(start) < _HEADER:
            return f"{file.name} ends before its header"
        (length,) = struct.unpack("<Q", start)
        if length > min(size - _HEADER, _LONGEST_HEADER):
            return f"{file.name} ends within its header"
        header = opened.read(length)
    try:
        tensors = [part for name, part in json.loads(header).items() if name != "__metadata__"]
        end = max((int(part["data_offsets"][1]) for part in tensors), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return f"the header of {file.name} cannot be read"
    expected = _HEADER + length + end
    return None if size == expected else f"{file.name} has {size:,} bytes of {expected:,}"


def on_hub(repository: str) -> list[Incoming]:
    """The revisions of a hub repository's main branch, oldest first. Their files are downloaded when they are audited.

    Raises:
        UserError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.model_info(repository, timeout=_PATIENCE)  # which is asked once; lists are asked for again and again
        commits = api.list_repo_commits(repository)
    except hub_errors() as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"is no folder here and cannot be had from the hub ({reason})",
            where=repository,
            cure="Check the spelling and the network, or name a local folder.",
        ) from None
    return [
        Incoming(commit.commit_id[:8], at, repository, commit.commit_id) for at, commit in enumerate(reversed(commits))
    ]
