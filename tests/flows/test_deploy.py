"""Audits and looks under a Prefect server, a worker and a webhook that are real."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import EventTrigger, Posture
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import deploy, deployed, events, notices, services, watch
from flows.cli import main
from flows.deploy import Deployed, Wanted
from neuronlens.artifact import read_json
from neuronlens.errors import UserError
from neuronlens.incoming import Incoming
from neuronlens.stages import STAGES
from tasks.audits import open_existing, state_of
from tasks.lines import Line
from tasks.versioning import Workspace
from tests.conftest import ROOT, labelled
from tests.flows.trained import aged

PARAMS = """
dataset: {path: data.csv}
fit: {rows: all, saliency: mean_abs}
interventions: {tau: 2.0}
evaluate: {bootstrap: 100, auxiliary: aux.txt}
gates:
  out of reach: selectivity.* >= 5
"""
BLOCK = "custom-webhook/team"
WITHIN = "10s"  # Prefect waits no shorter


@dataclass(frozen=True)
class Site:
    """A workspace whose deployments a server knows, a worker at work on the first of them, and what the team was notified of."""

    root: Path
    first: Deployed
    run: UUID
    notified: list[dict[str, str]]

    def wait(self, found: Callable[[], Any]) -> Any:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            if value := found():
                return value
            time.sleep(0.5)
        raise AssertionError(self.notified)

    def told(self, subject: str) -> dict[str, str]:
        """The notification with a subject, once it is there."""
        return cast(
            dict[str, str],
            self.wait(lambda: next((note for note in self.notified if note["subject"] == subject), None)),
        )


@pytest.fixture(scope="module")
def site(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    root = Workspace.create(folder / "ours").root
    (root / "params.yaml").write_text(PARAMS)
    for name in ("data.csv", "aux.txt"):
        shutil.copy(originals / name, root)
    _arrive(originals / "gpt2", root / "run" / "checkpoint-1")
    notified: list[dict[str, str]] = []
    EventsWorker.drain_all()  # one that other tests have left sends to their server
    with (
        pytest.MonkeyPatch.context() as patch,
        _webhook(notified) as hook,
        temporary_settings(restore_defaults={PREFECT_API_URL}),
    ):
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("OMP_NUM_THREADS", "1")
        server = services._start(root, "prefect", services._KINDS["prefect"])
        services._write(root, {"prefect": server})
        try:
            with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
                said = {"subject": "{{subject}}", "body": "{{body}}"}
                CustomWebhookNotificationBlock(name="team", url=hook, json_data=said).save("team")
                Secret(value="x").save("plain")
                first = deploy.deploy(root, Wanted(gpus=1, source=str(root / "run"), notify=BLOCK, within=WITHIN))
                run = run_deployment("audit-checkpoint/audit", parameters={"checkpoint": "run/checkpoint-1"}, timeout=0)
            with _worker(first.workers[0]):
                yield Site(root, first, run.id, notified)
        finally:
            EventsWorker.drain_all()
            services.down(root)


def _arrive(original: Path, folder: Path) -> Path:
    """A checkpoint that has been there for a while."""
    return aged(shutil.copytree(original, folder))


def _ended(client: SyncPrefectClient, run: UUID) -> FlowRun | None:
    known = client.read_flow_run(run)
    return known if known.state is not None and known.state.is_final() else None


def _events(client: SyncPrefectClient) -> set[str]:
    """Names of ours that the server has kept."""
    ours = {"filter": {"event": {"prefix": ["neuronlens."]}}}
    return {event["event"] for event in client.request("POST", "/events/filter", json=ours).json()["events"]}


class _Webhook(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self, notified: list[dict[str, str]]) -> None:
        self.notified = notified
        super().__init__(("127.0.0.1", 0), _Post)


class _Post(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        cast(_Webhook, self.server).notified.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _webhook(notified: list[dict[str, str]]) -> Iterator[str]:
    """Its address."""
    with _Webhook(notified) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def _worker(command: str) -> Iterator[None]:
    """What `neuronlens deploy` says to run, running."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PREFECT_WORKER_QUERY_SECONDS": "2"}
    with subprocess.Popen(
        command,
        shell=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as worker:
        try:
            yield
        finally:
            os.killpg(worker.pid, signal.SIGKILL)


@pytest.fixture
def client(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """Of the site's server; the site is the current folder."""
    monkeypatch.chdir(site.root)
    with temporary_settings({PREFECT_API_URL: site.first.server}), get_client(sync_client=True) as opened:
        yield opened


def _schedules(client: SyncPrefectClient) -> dict[str | None, Any]:
    return {schedule.slug: schedule for schedule in client.read_deployment_by_name("watch-line/watch").schedules}


def test_deployments_are_there_once_and_are_updated(
    site: Site, client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    known = _schedules(client)
    assert {**known["run"].parameters} == {"source": str(site.root / "run")}
    assert (known["run"].active, known["run"].schedule.cron) == (True, "0 3 * * *")
    look = client.read_deployment_by_name("watch-line/watch")
    assert (look.global_concurrency_limit.limit, look.work_pool_name, look.work_queue_name) == (1, "neuronlens", "gpu")
    before = {automation.name: automation for automation in client.read_automations()}
    assert {*before} == {*site.first.automations}
    client.pause_automation(before["neuronlens: a run failed"].id)

    words = ["--gpus", "2", "--source", "models:/topics", "--every", "6h", "--notify", BLOCK, "--within", WITHIN]
    assert main(["deploy", *words, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert [command.partition(" prefect ")[0].partition(" ")[2] for command in second["workers"]] == [
        "CUDA_VISIBLE_DEVICES=0",
        "CUDA_VISIBLE_DEVICES=1",
    ]
    assert client.read_work_pool("neuronlens").concurrency_limit == 2
    assert client.read_deployment_by_name("watch-line/watch").id == look.id
    assert {slug: schedule.active for slug, schedule in _schedules(client).items()} == {"run": True, "topics": True}
    after = {automation.name: automation for automation in client.read_automations()}
    assert {*after} == {*before, "neuronlens: nobody looks at topics"}
    assert {name: after[name].id for name in before} == {name: one.id for name, one in before.items()}
    assert not after["neuronlens: a run failed"].enabled, "what was paused stays paused"
    assert after["neuronlens: nobody looks at topics"].trigger.within.total_seconds() == 6 * 3600 + 10
    client.resume_automation(before["neuronlens: a run failed"].id)


def test_a_schedule_makes_runs_that_look_at_its_line(site: Site, client: SyncPrefectClient) -> None:
    """With SQLAlchemy 2.1 it is accepted and makes none."""
    look = client.read_deployment_by_name("watch-line/watch")
    own = DeploymentFilter(id=DeploymentFilterId(any_=[look.id]))
    runs = site.wait(lambda: client.read_flow_runs(deployment_filter=own))
    assert str(site.root / "run") in {run.parameters["source"] for run in runs}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--source run --cron '61 * * * *'", "--cron: '61 * * * *' is no cron expression"),
        ("--source run --every soon", "--every: 'soon' is no time"),
        ("--every 6h", "--every and --cron: say when to look, and nothing says at what. Name it with --source."),
        ("--within soon", "--within: 'soon' is no time"),
        ("--notify custom-webhook/nobody", "--notify custom-webhook/nobody: no such block on this server."),
        ("--notify team", "--notify team: is no name of a block."),
        ("--notify secret/plain", "--notify secret/plain: is a block that cannot notify."),
    ],
)
@pytest.mark.usefixtures("client")
def test_a_mistake_is_one_line_and_deploys_nothing(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", *shlex.split(words)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert told in line


def test_a_workspace_does_not_take_another_ones_deployments(site: Site, tmp_path: Path) -> None:
    other = Workspace.create(tmp_path / "theirs").root
    with (
        temporary_settings({PREFECT_API_URL: site.first.server}),
        pytest.raises(UserError, match=re.escape(f"is deployed by the workspace {site.root}")),
    ):
        deploy.deploy(other, Wanted(gpus=1))


def test_without_a_server_a_line_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Workspace.create(tmp_path / "ours").root)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main(["deploy"]) == 2
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["deploy"]) == 2
    nothing, silent = capsys.readouterr().err.splitlines()
    assert "no Prefect server runs for this workspace. Start one with neuronlens up" in nothing
    assert silent.startswith("neuronlens: http://127.0.0.1:9/api: no Prefect server answers (")


def test_a_worker_audits(site: Site, client: SyncPrefectClient) -> None:
    run = site.wait(lambda: _ended(client, site.run))
    assert (run.state_name, run.name) == ("Completed", "checkpoint-1 on data")
    (folder,) = (site.root / "audits").glob("run-checkpoint-1-*")
    assert run.state.message == f"audits/{folder.name}: 5 computed"
    assert [stage.outcome for stage in state_of(open_existing(folder))] == ["current"] * len(STAGES)
    assert read_json(folder / "report" / "audit.json")["base"]["n"] == [*labelled().split].count("test")
    (stages,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [folder.name]}))
    assert {*stages.tags} == {"checkpoint:run-checkpoint-1", f"data:{folder.name.split('-', 4)[-1]}"}


def test_a_look_tells_by_its_state_and_by_notifications(
    site: Site, client: SyncPrefectClient, originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.wait(lambda: _ended(client, site.run))
    assert main(["watch", "run", "--once"]) == 1
    failed = site.told("NeuronLens: gate out of reach failed for checkpoint-1 of run")
    assert "selectivity.finance is " in failed["body"]
    assert "the gate asks for selectivity.* >= 5" in failed["body"]

    broken = _arrive(originals / "gpt2", site.root / "run" / "checkpoint-2")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "none"}))
    aged(broken)
    assert main(["watch", "run", "--once"]) == 3
    assert (
        "model type 'none' is not one that the installed transformers has a class for"
        in site.told("NeuronLens: run on data: Failed")["body"]
    )
    assert "run/checkpoint-2" in site.told("NeuronLens: checkpoint-2 of run is not audited")["body"]

    assert main(["watch", "run", "--once"]) == 0
    emitted = {events.SEEN, events.AUDITED, events.FAILED, events.GATE_FAILED, events.LOOKED}
    site.wait(lambda: _events(client) == emitted)
    looks = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": ["run on data"]}))
    assert sorted(look.state_name for look in looks) == ["Completed", "Failed", "GateFailed"]


def test_the_repository_deploys_what_the_package_does() -> None:
    assert (ROOT / "prefect.yaml").read_bytes() == deploy._PACKAGED.read_bytes()
    spec = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert [deploy._flow_of(one, deployed).name for one in spec["deployments"]] == ["audit-checkpoint", "watch-line"]


def test_a_run_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert deploy.gpus() == ["0", "1", "2"]
    assert deploy.gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5e,7")
    assert deploy.gpus() == ["4", "GPU-5e", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert deploy.gpus() == [None]


def test_what_prefect_yaml_says_holds(tmp_path: Path) -> None:
    line = Line(tmp_path, "run", "run")
    spec = deploy._read(ROOT / "prefect.yaml")
    spec["deployments"][1]["schedules"] = [{"interval": 600, "parameters": {"dataset": "other.csv"}}]
    schedule = deploy._schedule(spec, line, Wanted())
    assert schedule == {
        "interval": 600,
        "slug": "run",
        "active": True,
        "parameters": {"dataset": "other.csv", "source": "run"},
    }
    named = deploy._schedule(spec, line, Wanted(cron="0 3 * * 1"))
    assert named["cron"] == "0 3 * * 1"
    assert "interval" not in named
    assert watch.longest_gap(named) == 7 * 86_400
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: theirs, entrypoint: theirs.py:flow}]")
    with pytest.raises(UserError, match=r"deploys no flow of flows\.deployed"):
        deploy._read(tmp_path / "prefect.yaml")


def test_a_missed_look_is_one_that_is_due() -> None:
    due = notices.automations(UUID(int=0), ["watch-line"], 60, notices.Schedule("run", 600))[-1]
    assert isinstance(due.trigger, EventTrigger)
    assert (due.trigger.posture, due.trigger.within.total_seconds()) == (Posture.Proactive, 660)
    assert due.trigger.expect == {events.LOOKED}
    assert due.trigger.match["prefect.resource.id"] == ["neuronlens.line.run"]


def test_without_a_flow_nobody_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(events, "emit_event", lambda *_, **__: pytest.fail("an event"))
    events.tell(Line(tmp_path, "run", "run"), Incoming("checkpoint-1", 1, "run/checkpoint-1"))
