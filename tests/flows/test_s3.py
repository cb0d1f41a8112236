"""Sharing through S3: the real client against a server that speaks its protocol."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import engine
from flows.engine import default_folder, run_audit
from neuronlens.config import Config
from neuronlens.errors import UserError
from tasks.versioning import Workspace
from tests.flows.results import files, outcomes
from tests.forked import dvc

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server that holds the bucket `audits`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="audits")
    yield url
    running.stop()


def test_an_audit_travels_through_s3(
    bucket: str,
    workspace_at: Callable[[Path], Workspace],
    configure: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def workspace(name: str) -> Workspace:
        found = workspace_at(tmp_path / name)
        monkeypatch.chdir(found.root)
        dvc(found.root, "remote", "add", "-d", "team", "s3://audits/ours")
        dvc(found.root, "remote", "modify", "team", "endpointurl", bucket)
        return found

    ours = workspace("ours")
    folder = default_folder(configure())
    run_audit(configure(), folder, use_flow=False)
    assert engine.exchange("push", [folder], None) > 0

    theirs = workspace("theirs")
    for name in ("audit.yaml", "dvc.yaml", "dvc.lock"):
        (theirs.root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(ours.root / folder / name, theirs.root / folder / name)
    assert engine.exchange("pull", [folder], None) > 0
    assert files(theirs.root / folder) == files(ours.root / folder)
    assert outcomes(run_audit(configure(), folder, use_flow=False)) == ["current"] * 5

    others = workspace("others")
    found = run_audit(configure(), folder, use_flow=False)
    assert outcomes(found) == ["restored"] * 5, "from the remote's run-cache alone"
    assert files(others.root / folder) == files(ours.root / folder)

    dvc(others.root, "remote", "modify", "team", "endpointurl", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # nobody will answer the fifth time
    with pytest.raises(UserError, match=r"remote s3://audits/ours: cannot be reached"):
        engine.exchange("push", [folder], None)
