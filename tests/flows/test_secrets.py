"""What opens something is written nowhere and printed nowhere: every byte that runs leave behind is searched for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import engine
from flows.audit import audit_flow
from flows.cli import main
from neuronlens.params import load_config
from tasks.versioning import Workspace
from tests.flows.secrets import AWAY, OPENS, REMOTE, SECRET, leaks


def told(capfd: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    """Exit code of a command line, and all that it has printed."""
    capfd.readouterr()
    code = main([*line])
    out, err = capfd.readouterr()
    return code, out + err


def test_bytes_are_searched_indeed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00hunter2\x00")
    (tmp_path / f"of {OPENS}").touch()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config.local").write_bytes(SECRET)
    assert len(leaks(tmp_path)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--checkpoint", f"{AWAY}/model"],
        ["plan", "--checkpoint", "bert", "--dataset", f"{AWAY}/data.csv"],
        ["plan", "--checkpoint", "bert", "--dataset", f"hub:{AWAY}/data"],
        ["plan", "--checkpoint", "bert", "--dataset", "data.csv", "--set", f"evaluate.auxiliary={AWAY}/text"],
        ["plan", "--checkpoint", "bert", "--dataset", "data.csv", "--set", f"evaluate.questions={AWAY}/text"],
        ["plan", "--checkpoint", "bert", "--dataset", "data.csv", "--set", f"checkpoint.sae={AWAY}/text"],
        ["plan", "--set", f"remote.rul={REMOTE}"],
        ["plan", "--set", f"remote.push={REMOTE}"],
        ["plan", f"--remote={REMOTE}"],
        ["plan", "--params", f"{AWAY}/params.yaml"],
        ["show", f"{AWAY}/audit"],
        ["compare", f"{AWAY}/audit", f"{AWAY}/other"],
        ["export", "nowhere", "--concept", f"{AWAY}", "-o", f"{AWAY}/lens"],
        ["generate", "x", "--edit", f"{AWAY}/lens"],
        ["watch", f"{AWAY}/run", "--once", "--no-flow"],
        ["watch", "run", "--once", "--set", f"remote.url={REMOTE}"],
        ["trend", AWAY],
        ["pull", "--remote", f"s3://somebody:{OPENS}@nowhere/x"],
        ["deploy", "--notify", AWAY],
    ],
    ids=lambda arguments: " ".join(arguments).replace(OPENS, "")[:60],
)
def test_a_message_about_an_address_does_not_open_it(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.create(here)
    monkeypatch.setenv("PREFECT_API_URL", f"{AWAY}/api")
    code, printed = told(capfd, *arguments)
    assert code in (2, 3), printed
    assert "neuronlens: " in printed
    assert "Traceback" not in printed
    assert OPENS not in printed
    assert leaks(here) == []


def test_neither_does_one_about_a_store_that_is_away(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.create(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, printed = told(capfd, "watch", "models:/topics", "--once", "--no-flow", "--dataset", "data.csv")
    assert code in (2, 3), printed
    assert "Traceback" not in printed
    assert OPENS not in printed
    assert leaks(here) == []


def test_a_traceback_and_the_way_to_go_on_do_not_open_it(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"no answer from {REMOTE}")

    monkeypatch.setattr(engine, "run_audit", broken)
    audit = ["audit", "--checkpoint", "bert", "--dataset", "data.csv", "--set", f"remote.url={REMOTE}"]
    code, printed = told(capfd, *audit)
    assert code == 3
    assert "RuntimeError: no answer from https://***@127.0.0.1:1/store?sig=***" in printed
    assert "To resume: neuronlens audit" in printed
    assert OPENS not in printed


def test_what_prefect_is_told_of_a_run_opens_nothing() -> None:
    given = [
        f"remote.url={REMOTE}",
        "runner.kind=dask",
        f"runner.address=tcp://me:{OPENS}@h:1",
        f"runner.store=s3://me:{OPENS}@b/x",
    ]
    config = load_config(None, given)
    kept = audit_flow.serialize_parameters({"config": config, "folder": Path("x"), "force": False})
    assert kept["config"]["remote"]["url"] == "https://***@127.0.0.1:1/store?sig=***"
    assert OPENS not in str(kept)
    assert config.remote.url == REMOTE
