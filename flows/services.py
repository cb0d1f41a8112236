"""The servers of a workspace: Prefect's, which keeps runs and schedules, and MLflow's, which shows what was audited. `up` and `down`."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from neuronlens.errors import NeuronLensError
from tasks.versioning import LOCKS

HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Service:
    """A server that runs.

    Attributes:
        pid, started: of its process; a number that was given anew belongs to another one.
        port: on this machine.
    """

    pid: int
    started: float
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same: bool = abs(process.create_time() - self.started) < 1
            return same and bool(process.status() != psutil.STATUS_ZOMBIE)
        return False


@dataclass(frozen=True)
class _Kind:
    """How a server is started.

    Attributes:
        port: the one it has where that is free.
        health: path that answers when it is up.
        command: its words, given the workspace's root and the port.
    """

    port: int
    health: str
    command: Callable[[Path, int], Sequence[str]]


_KINDS: Mapping[str, _Kind] = {
    "prefect": _Kind(
        4200, "/api/health", lambda _, port: ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    ),
    "mlflow": _Kind(
        5000,
        "/health",
        lambda root, port: [
            *("mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"),
            *("--default-artifact-root", (root / "mlruns").as_uri()),
        ],
    ),
}


def up(root: Path, tell: Callable[[str], None] = lambda _: None) -> dict[str, Service]:
    """Start those servers of a workspace that do not run.

    Raises:
        NeuronLensError: one does not answer within two minutes.
    """
    with _file(root):
        found = running(root)
        for name, kind in _KINDS.items():
            if name not in found:
                tell(f"starting {name}")
                found[name] = _start(root, name, kind)
                _write(root, found)
    return found


def down(root: Path) -> list[str]:
    """Stop the servers of a workspace; the names of those that ran."""
    with _file(root):
        found = running(root)
        for service in _known(root).values():  # also of one that died: its helpers may have outlived it
            _stop(service)
        _write(root, {})
    return [*found]


def _folder(root: Path) -> Path:
    folder = root / ".dvc" / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file(root: Path) -> FileLock:
    return FileLock(_folder(root) / "services.lock")


def _known(root: Path) -> dict[str, Service]:
    file = root / ".dvc" / LOCKS / "services.json"
    try:
        return {name: Service(**values) for name, values in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def running(root: Path) -> dict[str, Service]:
    """Those servers of a workspace that run."""
    return {name: service for name, service in _known(root).items() if service.alive}


def _write(root: Path, services: Mapping[str, Service]) -> None:
    file = _folder(root) / "services.json"
    part = file.with_suffix(".part")
    part.write_text(json.dumps({name: asdict(service) for name, service in services.items()}))
    part.replace(file)


def _start(root: Path, name: str, kind: _Kind) -> Service:
    port, told = _free_port(kind.port), _folder(root) / f"{name}.log"
    environment = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    environment.pop("PREFECT_API_URL", None)
    with told.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *kind.command(root, port)],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    service = Service(process.pid, psutil.Process(process.pid).create_time(), port)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if _answers(port, kind.health):
            return service
        time.sleep(0.2)
    _stop(service)
    last = told.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise NeuronLensError(f"{name} did not start ({last[0].strip()[:200]}); all that it said is in {told}")


def _stop(service: Service) -> None:
    """Ask a server and those it has started to end; make them, where they do not."""
    family = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it leads a group of its own, and a session
            if (
                service.pid in (os.getpgid(process.pid), os.getsid(process.pid))
                and process.create_time() >= service.started - 1
            ):
                family.append(process)
    for member in family:
        with suppress(psutil.Error):
            member.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for member in left:
        with suppress(psutil.Error):
            member.kill()


def _answers(port: int, path: str) -> bool:
    try:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise NeuronLensError("no port of this machine is free")
