"""Putting audits and looks of a workspace under a Prefect server: its work pool, deployments, schedules and notifications."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.watch import longest_gap, seconds
from neuronlens.errors import ConfigError, UserError, redacted
from tasks.lines import Line

FILE = "prefect.yaml"
_PACKAGED = Path(__file__).with_name(FILE)
_OURS = "flows.deployed."
_NIGHTLY = "0 3 * * *"


@dataclass(frozen=True)
class Wanted:
    """What is to be deployed.

    Attributes:
        gpus: runs at once; as many as there are GPUs where None, and one where there is none.
        source: what is looked at on a schedule; nothing where None.
        every, cron: when; as prefect.yaml says where None.
        notify: `BLOCK_TYPE/BLOCK_NAME` of who is told; nobody where None.
        within: time in which a checkpoint that was seen has to be audited.
    """

    gpus: int | None = None
    source: str | None = None
    every: str | None = None
    cron: str | None = None
    notify: str | None = None
    within: str = "24h"


@dataclass(frozen=True)
class Deployed:
    """What a server knows now.

    Attributes:
        server: address of its API.
        file: the prefect.yaml that was used.
        pool, queue, at_once: the work pool, the queue, and how many runs there may be at once.
        deployments: as FLOW/NAME.
        schedule: of the line, None without one.
        automations: names of those that notify.
        workers: what is to be run, a command per GPU.
    """

    server: str
    file: str
    pool: str
    queue: str
    at_once: int
    deployments: list[str]
    schedule: dict[str, Any] | None
    automations: list[str]
    workers: list[str]


def deploy(root: Path, wanted: Wanted) -> Deployed:
    """Register the deployments of a workspace with the server that runs for it, or that Prefect's settings name. What is there is updated.

    Raises:
        UserError: no server answers, prefect.yaml is none, no such block, or another workspace is deployed there.
    """
    within = seconds(wanted.within, "--within")
    file = root / FILE
    if not file.exists():
        shutil.copyfile(_PACKAGED, file)
    spec = _read(file)
    line = None if wanted.source is None else Line.of(wanted.source, root)
    schedule = None if line is None else _schedule(spec, line, wanted)
    if schedule is None and (wanted.every or wanted.cron):
        raise ConfigError(
            "say when to look, and nothing says at what", where="--every and --cron", cure="Name it with --source."
        )
    pool = _pool(spec, file)
    with _server(root) as (url, client):
        from flows import deployed, notices

        names = [f"{_flow_of(one, deployed).name}/{one['name']}" for one in spec["deployments"]]
        _only_ours(client, names, root)
        block = None if wanted.notify is None else notices.find_block(client, wanted.notify)
        devices = gpus(wanted.gpus)
        _make_pool(client, pool, len(devices))
        _prefect_deploy(root, spec, url)
        if line is not None:
            line.claim()
        made = []
        if block is not None:
            gap = None if schedule is None else longest_gap(schedule)
            due = None if schedule is None or gap is None else notices.Schedule(schedule["slug"], gap)
            made = notices.automations(block, [deployed.audit.name, deployed.watch.name], within, due)
            notices.register(client, made)
    return Deployed(
        server=redacted(url),
        file=str(file),
        pool=pool["name"],
        queue=pool["work_queue_name"],
        at_once=len(devices),
        deployments=names,
        schedule=schedule,
        automations=[automation.name for automation in made],
        workers=[_worker(url, pool, device) for device in devices],
    )


def gpus(count: int | None = None) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES is for each of the runs at once; None where there is no GPU.

    Args:
        count: of the runs; as many as there are GPUs, at least one, where None.
    """
    if count is None:
        from tasks.runners import cards_here

        return [*cards_here()] or [None]
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return [*names[:count]] if len(names) >= count else [*map(str, range(count))]


@contextmanager
def _server(root: Path) -> Iterator[tuple[str, Any]]:
    """Address of the API, and a client of it."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from flows.services import running

    known = running(root)
    url = get_current_settings().api.url or (f"{known['prefect'].url}/api" if "prefect" in known else None)
    if url is None:
        raise UserError(
            "no Prefect server runs for this workspace",
            where=str(root),
            cure="Start one with neuronlens up, or name one in PREFECT_API_URL.",
        )
    with temporary_settings({PREFECT_API_URL: url}):
        try:
            with get_client(sync_client=True) as client:
                problem = client.api_healthcheck()
                if problem is not None:
                    raise _unreachable(url, problem)
                yield url, client
        except PrefectHTTPStatusError as error:
            raise UserError(f"the Prefect server refuses ({_line(str(error))})", where=url) from None
        except HTTPError as error:
            raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> UserError:
    return UserError(
        f"no Prefect server answers ({_line(str(error)) or type(error).__name__})",
        where=url,
        cure="Start one with neuronlens up, or name another one in PREFECT_API_URL.",
    )


def _line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _read(file: Path) -> dict[str, Any]:
    """A prefect.yaml, with those of its deployments that are flows of ours."""
    try:
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))
        ours = [one for one in spec["deployments"] if str(one.get("entrypoint")).startswith(_OURS)]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"is no prefect.yaml ({_line(str(error))})", where=str(file), cure=_CURE) from None
    if not ours:
        raise UserError(f"deploys no flow of {_OURS}*", where=str(file), cure=_CURE)
    return {**spec, "deployments": ours}


_CURE = f"Take the deployments from {_PACKAGED}, or move the file away: it is written anew."


def _schedule(spec: Mapping[str, Any], line: Line, wanted: Wanted) -> dict[str, Any]:
    """The schedule of a line, which replaces those of the file: by its slug, Prefect tells it from those of other lines."""
    from tzlocal import get_localzone_name

    for one in spec["deployments"]:
        if one["entrypoint"] == f"{_OURS}watch":
            known: dict[str, Any] = next(iter(one.get("schedules") or [{"cron": _NIGHTLY}]))
            when: dict[str, Any] = {
                key: known[key] for key in ("cron", "interval", "rrule", "timezone") if key in known
            }
            if wanted.every is not None:
                when = {"interval": seconds(wanted.every, "--every")}
            elif wanted.cron is not None:
                when = {"cron": wanted.cron, "timezone": when.get("timezone")}
            if "cron" in when:
                when["timezone"] = when.get("timezone") or get_localzone_name()
            told = (known.get("parameters") or {}) | {"source": line.source}
            schedule = {**when, "slug": line.name, "active": True, "parameters": told}
            longest_gap(schedule)
            one["schedules"] = [schedule]
            return schedule
    raise UserError(f"{FILE} deploys no {_OURS}watch, which --source needs", where=str(line.root), cure=_CURE)


def _pool(spec: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The work pool and queue of the deployments."""
    found = {
        (pool.get("name"), pool.get("work_queue_name") or "default")
        for pool in (one.get("work_pool") or {} for one in spec["deployments"])
    }
    if len(found) != 1 or None in next(iter(found)):
        raise UserError("the deployments do not name one work pool and queue", where=str(file), cure=_CURE)
    ((name, queue),) = found
    return {"name": str(name), "work_queue_name": str(queue)}


def _flow_of(deployment: Mapping[str, Any], module: Any) -> Any:
    name = str(deployment["entrypoint"]).removeprefix(_OURS)
    if name not in ("audit", "watch"):
        raise UserError(f"{deployment['entrypoint']} is no flow", where=FILE, cure=_CURE)
    return getattr(module, name)


def _only_ours(client: Any, names: Sequence[str], root: Path) -> None:
    """A server keeps one deployment of a name: another workspace's is not taken away."""
    from prefect.exceptions import ObjectNotFound

    for name in names:
        try:
            steps = client.read_deployment_by_name(name).pull_steps or []
        except ObjectNotFound:
            continue
        for step in steps:
            place = step.get("prefect.deployments.steps.set_working_directory", {}).get("directory")
            if place is not None and Path(place).resolve() != root.resolve():
                raise UserError(
                    f"is deployed by the workspace {place}",
                    where=name,
                    cure=f"End that with prefect deployment delete {name}, or use a server of your own: neuronlens up.",
                )


def _make_pool(client: Any, pool: Mapping[str, str], at_once: int) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    name, queue = pool["name"], pool["work_queue_name"]
    try:
        client.read_work_pool(name)
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=at_once))
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        made = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=at_once)
        client.create_work_pool(made)
    try:
        client.read_work_queue_by_name(queue, work_pool_name=name)
    except ObjectNotFound:
        client.create_work_queue(queue, work_pool_name=name)


def _prefect_deploy(root: Path, spec: Mapping[str, Any], url: str) -> None:
    """Prefect's own command, which knows all that may stand in a prefect.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        file.write_text(yaml.safe_dump(spec), encoding="utf-8")
        # -P: what lies in the workspace must not pass for a library
        command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(
            command,
            cwd=root,
            env=os.environ | {"PREFECT_API_URL": url, "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = " ".join(line for line in lines[-6:] if "://" not in line)
        raise UserError(f"prefect deploy refuses it ({told})", where=str(root / FILE), cure=_CURE)


def _worker(url: str, pool: Mapping[str, str], device: str | None) -> str:
    environment = {"PREFECT_API_URL": redacted(url)} | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
    command = ["prefect", "worker", "start", "--pool", pool["name"], "--work-queue", pool["work_queue_name"]]
    told = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*told, shlex.join([*command, "--limit", "1"])])
