"""What a run that broke says last: what is kept, and how to go on."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from flows import cli
from neuronlens.errors import ArtifactError, InputsChangedError, NeuronLensError, OutOfMemoryError, UserError

WORDS = ["audit", "--force", "--out", "one"]


def said(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and complaint where a verb raises something."""

    def broken(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", broken)
    return cli.main(WORDS), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OutOfMemoryError("a row of 9 tokens does not fit; lower dataset.max_tokens."),
            "a row of 9 tokens does not fit; lower dataset.max_tokens; what is finished is kept. To resume: neuronlens audit --out one",
        ),
        (
            InputsChangedError("what fit reads changed while it ran; run the same command again"),
            "what fit reads changed while it ran; run the same command again; what is finished is kept",
        ),
        (
            ArtifactError("shard: cannot be read; delete its folder and run the same command again"),
            "shard: cannot be read; delete its folder and run the same command again; what is finished is kept",
        ),
        (
            NeuronLensError("MLflow is away. The audit is complete and kept; run the same command again to note it."),
            "MLflow is away. The audit is complete and kept; run the same command again to note it.",
        ),
        (
            OSError(errno.EIO, os.strerror(errno.EIO), "shard"),
            "Input/output error: shard. Check the disk, or the way to it; what is finished is kept. To resume: neuronlens audit --out one",
        ),
    ],
)
def test_a_run_that_broke_says_what_is_kept_and_how_to_go_on(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(error, monkeypatch, capsys) == (3, f"neuronlens: {line}\n")


def test_a_mistake_says_its_cure_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("no such file", where="data.csv", cure="Name one.")
    assert said(error, monkeypatch, capsys) == (2, "neuronlens: data.csv: no such file. Name one.\n")
