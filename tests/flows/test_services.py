"""The workspace's servers: started once, found by flows, stopped."""

from __future__ import annotations

import http.client
import os
import signal
from pathlib import Path

import psutil
import pytest

from flows import services
from flows.services import Service
from neuronlens.errors import NeuronLensError
from tasks.versioning import Workspace


def _status(service: Service, path: str) -> int:
    connection = http.client.HTTPConnection(services.HOST, service.port, timeout=60)
    connection.request("GET", path)
    return connection.getresponse().status


@pytest.mark.usefixtures("prefect_home")
def test_servers_are_started_once_found_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Workspace.create(tmp_path / "ours").root
    monkeypatch.chdir(root)
    told: list[str] = []
    try:
        first = services.up(root, told.append)
        assert told == ["starting prefect", "starting mlflow"]
        assert _status(first["prefect"], "/api/health") == 200
        assert _status(first["mlflow"], "/health") == 200
        assert services.up(root, told.append) == first
        assert len(told) == 2
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.server import prefect_api

        with temporary_settings(restore_defaults={PREFECT_API_URL}), prefect_api():
            assert PREFECT_API_URL.value() == f"{first['prefect'].url}/api"
        os.kill(first["mlflow"].pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(first["mlflow"].pid)], timeout=10)
        assert [*services.running(root)] == ["prefect"], "one that died is not taken for running"
    finally:
        stopped = services.down(root)
    assert stopped == ["prefect"]
    assert services.running(root) == {}
    assert not first["prefect"].alive
    assert services.down(root) == []


def test_a_server_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Workspace.create(tmp_path).root
    kind = services._Kind(0, "/", lambda _, __: ["no_such_module"])
    monkeypatch.setattr(services, "_KINDS", {"prefect": kind})
    with pytest.raises(NeuronLensError, match=r"prefect did not start \(.*no_such_module.*prefect\.log"):
        services.up(root)
    assert services.running(root) == {}


def test_another_process_of_the_same_number_is_not_the_server() -> None:
    own = psutil.Process()
    assert Service(own.pid, own.create_time(), 1).alive
    assert not Service(own.pid, own.create_time() - 100, 1).alive


def test_a_taken_port_is_not_taken_twice() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind((services.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert services._free_port(port) != port
