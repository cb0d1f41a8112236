"""The local Prefect server: there while a flow needs it, and not a moment longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from flows.server import local_server
from neuronlens.errors import NeuronLensError

RUN = """
import http.client, json, signal, urllib.parse
from flows.server import local_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
with local_server(timeout=120) as url:
    try:
        print("up", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        place = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname, place.port)
        connection.request("GET", place.path + "/admin/settings")
        answer = connection.getresponse()
        services = json.load(answer)["server"]["services"]
        print(answer.status, services["triggers"]["enabled"], flush=True)
        signal.pause()
"""


@pytest.mark.usefixtures("prefect_home")
def test_it_outlives_an_interrupt_but_not_the_run() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == "up\n"
            os.killpg(run.pid, signal.SIGINT)  # what Ctrl-C does
            assert run.stdout.readline() == "200 False\n", "automations are for a server that stays"
        finally:
            run.kill()
        run.communicate(timeout=60)  # reads stderr to its end, which is reached when the server that shares it is gone


def test_a_server_that_does_not_start_is_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NeuronLensError, match="--no-flow"), local_server(timeout=60):
        pytest.fail("there is no server")
