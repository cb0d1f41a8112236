"""Parts made by processes and by a real Dask cluster of two workers, which read and write this machine's files or an S3 server's."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from prefect import flow

from flows.cli import main
from flows.engine import run_audit
from neuronlens.activations import store
from neuronlens.artifact import read_manifest
from neuronlens.config import Config, RunnerParams
from neuronlens.errors import ConfigError, NeuronLensError
from neuronlens.params import load_config
from neuronlens.parts import GivenUpError, PartMaker
from neuronlens.stages import run_stage
from tasks import runners
from tasks.parts import error_of
from tasks.runners import Pool
from tasks.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")
BATCH = "extract.batch_tokens=64"  # several shards, and several groups of scored rows


@pytest.fixture(scope="module", autouse=True)
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Shards of few rows, so that there are several: in this process, and in all that it starts."""
    room = 4 * 24 * 12
    folder = tmp_path_factory.mktemp("customized")
    (folder / "sitecustomize.py").write_text(f"from neuronlens.activations import store\nstore._SHARD_BYTES = {room}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_SHARD_BYTES", room)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        yield


@pytest.fixture(scope="module")
def config(configure: Callable[..., Config]) -> Config:
    """Of an audit with several parts."""
    return configure(BATCH)


@pytest.fixture(scope="module")
def made(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit, made by threads of this process."""
    folder = tmp_path_factory.mktemp("made") / "audit"
    run_audit(config, folder, use_flow=False)
    return folder


def _bytes(folder: Path, *stages: str) -> dict[str, bytes]:
    files = (path for stage in stages for path in (folder / stage).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "timing.json"}


def _again(made: Path, folder: Path, config: Config, runner: RunnerParams) -> dict[str, bytes]:
    """Extraction and evaluation, made once more by others."""

    @flow(name="again")
    def again() -> None:
        with Pool(runner) as pool:
            for name in ("extract", "evaluate"):
                run_stage(name, config, folder, mapper=pool)

    for name in ("prepare", "fit"):
        shutil.copytree(made / name, folder / name)
    again()
    assert not [*folder.glob(".*")], "parts were left"
    return _bytes(folder, "extract", "evaluate")


def test_it_does_not_matter_how_many_processes_make_the_parts(made: Path, config: Config, tmp_path: Path) -> None:
    assert read_manifest(made / "extract")["facts"]["shards"] > 2
    found = _again(made, tmp_path / "audit", config, RunnerParams(kind="processes", workers=4))
    assert found == _bytes(made, "extract", "evaluate")


class Deadly:
    """A job that kills the first processes that do it."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def __call__(self, name: str, out: Path) -> dict[str, object]:
        with (self.folder / f"{name}.tries").open("a") as file:
            file.write("x")
        if name == "b" and len((self.folder / "b.tries").read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        (out / "data").write_text(name)
        return {}

    @property
    def places(self) -> dict[str, Path]:
        return {}

    def at(self, places: object) -> Deadly:
        return self


@pytest.mark.parametrize("times", [1, 99])
def test_a_process_that_dies_costs_its_part_alone(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = pytest.importorskip("distributed").config
    # 3 would take longer
    monkeypatch.setitem(known["distributed"]["scheduler"], "allowed-failures", int(times == 1))

    @flow(name="deadly")
    def run() -> None:
        with Pool(RunnerParams(kind="processes", workers=1)) as pool:
            pool(PartMaker(tmp_path / "parts", Deadly(tmp_path, times)), ["a", "b", "c"])

    if times == 1:
        run()
        assert {path.name for path in (tmp_path / "parts").iterdir() if path.name[0] != "."} == {"a", "b", "c"}
        assert {name: len((tmp_path / f"{name}.tries").read_text()) for name in "abc"} == {"a": 1, "b": 2, "c": 1}
    else:
        with pytest.raises(NeuronLensError, match="b ended one worker after another"):
            run()


@dataclass
class Cluster:
    """A Dask cluster.

    Attributes:
        address: of its scheduler.
        store: an S3 folder that its workers have the keys of.
        cache: where these keep what they fetch.
    """

    address: str
    store: str
    cache: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers, processes of their own in a folder of their own; an S3 server."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("prefect_dask")
    folder = tmp_path_factory.mktemp("cluster")
    running = moto.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("XDG_CACHE_HOME", str(folder / "cache")),
        ):
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="parts")
        file = folder / "scheduler.json"
        quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        run = [sys.executable, "-m", "dask"]
        processes = [
            subprocess.Popen(
                [*run, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], **quiet
            )
        ]
        worker = [*run, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"]
        processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]
        try:
            yield Cluster(_address(file), "s3://parts/ours", folder / "cache")
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(timeout=60)
            running.stop()


def _address(file: Path) -> str:
    from distributed import Client

    end = time.monotonic() + 120
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < end, "the scheduler did not start"
        time.sleep(0.1)
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        return client.scheduler.address


def test_a_cluster_of_two_makes_the_same_bytes_and_a_worker_that_dies_costs_its_part(
    cluster: Cluster, made: Path, config: Config, tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(audit)], stdout=subprocess.PIPE, text=True)
    told = {"runner": RunnerParams(kind="dask", address=cluster.address)}
    run_audit(config.model_copy(update=told), audit)
    output, _ = killer.communicate(timeout=60)
    assert output.startswith("killed"), "nobody died"
    stages = ("prepare", "extract", "fit", "evaluate", "report")
    assert _bytes(audit, *stages) == _bytes(made, *stages)


KILLER = """
import os, pathlib, signal, sys, time
audit, own, end = pathlib.Path(sys.argv[1]), os.getppid(), time.monotonic() + 300
while time.monotonic() < end:
    for folder in audit.glob(".extract.parts-*/.*.tmp-*"):  # a worker's, which is making the part
        pid = int(folder.name.partition(".tmp-")[2].partition("@")[0])
        if pid != own:
            os.kill(pid, signal.SIGKILL)
            print("killed", pid)
            sys.exit()
    time.sleep(0.002)
"""


def test_workers_that_see_a_store_alone_make_the_same_bytes(
    cluster: Cluster, made: Path, config: Config, tmp_path: Path
) -> None:
    runner = RunnerParams(kind="dask", address=cluster.address, store=cluster.store)
    assert _again(made, tmp_path / "audit", config, runner) == _bytes(made, "extract", "evaluate")
    assert [*(cluster.cache / "neuronlens" / "folders").iterdir()], "they did not look into the store"
    system, root = Store(cluster.store)._place
    assert system.find(f"{root}/files"), "what parts are made from stays for the next stage"
    assert not system.find(f"{root}/parts"), "what has been fetched is removed"


def test_a_store_holds_folders_files_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    own: Store = pickle.loads(pickle.dumps(Store((tmp_path / "store").as_uri())))
    listing = own.put(folder)
    assert sorted(listing.files) == ["b.txt", "inner/a.txt"]
    found = own.get(listing)
    assert (found / "inner" / "a.txt").read_text() == "a"
    assert own.get(own.put(folder / "b.txt")).read_text() == "b"
    (tmp_path / "store" / "files" / listing.files["b.txt"]).write_text("x")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(NeuronLensError, match="holds something else"):
        own.get(listing)
    assert not own.has_part("p/1")


def test_a_job_is_told_where_its_sources_lie(config: Config, tmp_path: Path) -> None:
    from neuronlens.sources import Sources

    sources = Sources(config, {"prepare": Path("prepare")})
    assert {*sources.places} == {"prepare", "checkpoint", "auxiliary"}
    assert all(path.is_absolute() for path in sources.places.values())
    moved = sources.at({name: tmp_path / name for name in sources.places})
    assert moved.places == {"prepare": tmp_path / "prepare"}, "the others are not there"
    assert moved.config.checkpoint.path == str(tmp_path / "checkpoint")
    assert moved.config.evaluate.auxiliary == str(tmp_path / "auxiliary")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--set", "runner={kind: dask, address: 'tcp://127.0.0.1:9'}"],
            "no Dask scheduler answers at tcp://127.0.0.1:9",
        ),
        (["--set", "runner={kind: dask, address: nonsense}"], "no Dask scheduler answers at nonsense"),
        (["--set", "runner=processes", "--no-flow"], "runner: processes make parts for Prefect's engine only"),
        (["--set", "runner=procesess"], "runner.kind: input should be 'threads', 'processes' or 'dask'"),
    ],
)
def test_who_cannot_be_had_is_one_line(
    words: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = pytest.importorskip("distributed").config
    monkeypatch.setitem(known["distributed"]["comm"]["timeouts"], "connect", "1s")
    given = ["--checkpoint", "gpt2", "--dataset", "data.csv", "--set", "fit.rows=all", "--out", "audit"]
    assert main(["audit", *given, *words]) in (2, 3)
    output = capsys.readouterr()
    assert told in output.err
    assert "Traceback" not in output.err


def test_a_part_that_was_cancelled_is_not_to_blame() -> None:
    from asyncio import CancelledError
    from concurrent.futures import Future
    from uuid import uuid4

    from prefect.futures import PrefectConcurrentFuture

    for error, kind in ((CancelledError("the run ends"), GivenUpError), (ValueError("bad"), ValueError)):
        wrapped: Future[None] = Future()
        wrapped.set_exception(error)
        assert isinstance(error_of(PrefectConcurrentFuture(uuid4(), wrapped)), kind)


def test_each_process_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert runners.cards_here() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert runners.cards_here() == ["0", "1"]


def test_workers_elsewhere_need_a_server_that_they_can_reach() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        runners._check_reachable(["127.0.0.1"])
        with pytest.raises(NeuronLensError, match=r"workers on 192\.0\.2\.7 cannot reach"):
            runners._check_reachable(["127.0.0.1", "192.0.2.7"])
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        runners._check_reachable(["192.0.2.7"])


def test_a_text_is_the_kind_of_runner() -> None:
    assert load_config(None, ["runner=dask"]).runner == RunnerParams(kind="dask")
    with pytest.raises(ConfigError):
        load_config(None, ["runner={kind: dask, adress: x}"])
