"""The server behind a flow: the one that Prefect's settings name, else a local one for the time of the run.

Prefect would start a local one by itself, but after importing all of the server into the flow's process too, which takes seconds; in the
terminal's process group, where Ctrl-C ends the server before the flow can report that it was interrupted; and it would outlive a run that
is killed.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuronlens.errors import NeuronLensError

_HOST = "127.0.0.1"


@contextmanager
def prefect_api() -> Iterator[None]:
    """Flows that are called within the block find a server."""
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        yield
        return
    # this file is also the program of a server, which needs nothing of ours
    from flows.services import running
    from tasks.versioning import Workspace

    workspace = Workspace.find(Path.cwd())
    known = {} if workspace is None else running(workspace.root)
    if "prefect" in known:
        with temporary_settings({PREFECT_API_URL: f"{known['prefect'].url}/api"}):
            yield
        return
    if sys.stderr.isatty():
        sys.stderr.write("starting the local Prefect engine, 10 to 20 s (--no-flow does without it)\n")
    with (
        local_server(settings.server.ephemeral.startup_timeout_seconds) as url,
        temporary_settings({PREFECT_API_URL: url}),
    ):
        yield


@contextmanager
def local_server(timeout: float) -> Iterator[str]:
    """Start a server; gives the URL of its API.

    The server runs until its standard input closes, which happens when the block ends and also when this process dies.

    Raises:
        NeuronLensError: it did not answer within `timeout` seconds.
    """
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    # -P: what lies beside this file or in the current folder must not pass for a library
    command = [sys.executable, "-P", __file__, str(port)]
    # its database is that of a server that stays, beside which it would act on the same automations once more
    environment = {"PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false"} | os.environ
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        _wait(process, port, timeout)
        yield f"http://{_HOST}:{port}/api"
    finally:
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, timeout: float) -> None:
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection(_HOST, port, timeout=timeout)
            connection.request("GET", "/api/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.05)
    raise NeuronLensError(
        "Prefect's local engine did not start. Run with --no-flow, or set PREFECT_API_URL to a running server."
    )


def _serve(port: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    uvicorn.run(app, host=_HOST, port=port, log_level="error", timeout_graceful_shutdown=1)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
