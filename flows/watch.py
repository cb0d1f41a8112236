"""Watching a line of checkpoints: every one is audited, held against the one before it, and judged."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from flows.engine import finish_comparison, log, run_audit, write_page
from neuronlens.artifact import finite, hash_value
from neuronlens.comparison.gates import exit_code
from neuronlens.config import SHARED, Config
from neuronlens.errors import ConfigError, NeuronLensError, UnreachableError
from neuronlens.incoming import SETTLED, Incoming, in_folder
from neuronlens.stages import audit_id, identities
from tasks.audits import AUDITS, INDEX, open_existing
from tasks.environment import set_environment
from tasks.lines import Decision, Line
from tasks.tracking import StoreError, registered
from tasks.versioning import Workspace

Source = Callable[[], Iterable[Incoming]]
_OUTSIDE = ("dataset", "auxiliary", "questions")


def source_of(name: str, settled: float = SETTLED) -> Source:
    """What lists the checkpoints of a source, in order.

    Args:
        name: a folder of `checkpoint-STEP`, `models:/NAME` of MLflow's registry, or a hub id.
    """
    if name.startswith("models:/"):
        return lambda: registered(name.removeprefix("models:/"), line_here(name).root)
    if Path(name).expanduser().is_dir() or "/" not in name or name.startswith((".", "/", "~")):
        return lambda: in_folder(Path(name).expanduser(), settled)
    from neuronlens.incoming import on_hub

    return lambda: on_hub(name)


@contextmanager
def engine(*, use_flow: bool) -> Iterator[None]:
    """One Prefect server for all audits of the block: what sends events to a server goes on asking for it when another one has taken its
    place, and keeps the process from ending.
    """
    if not use_flow:
        yield
        return
    set_environment()
    from flows.server import prefect_api

    with prefect_api():
        yield


def watch_once(
    config: Config,
    line: Line,
    source: Source,
    *,
    use_flow: bool = True,
    tell: Callable[[Incoming | Decision], None] = lambda _: None,
) -> list[Decision]:
    """Decide on every checkpoint of a line that is whole and has not been decided on; what was decided.

    One that cannot be audited is reported, and the others go on.

    Args:
        config: of every audit; the checkpoint in it is set.
        use_flow: run audits as Prefect flows.
        tell: is told every whole checkpoint before it is decided on, and every decision once it is written.

    Raises:
        UserError: the source is not there, or another process watches it.
        StoreError, UnreachableError: MLflow or a remote is away; the next look goes on from there.
    """
    made = []
    with line.watched():
        told = _told(config)
        known = line.known()
        for checkpoint in source():
            if checkpoint.state == "being written":
                continue
            own = _of(config, checkpoint)
            key = hash_value([told, _identity(own, checkpoint)])
            if (checkpoint.name, key) in known:
                _write_page(own, line, known[checkpoint.name, key], missing=True)
                continue
            if checkpoint.problem is None:
                tell(checkpoint)
            decision = _decide(own, checkpoint, line, key, use_flow=use_flow)
            line.add(decision)
            made.append(decision)
            log.info("%-8s  %s", "line", in_words(decision))
            _write_page(own, line, decision)
            tell(decision)
    return made


def _write_page(config: Config, line: Line, decision: Decision, *, missing: bool = False) -> None:
    """Of what has been audited, once that stands in the record.

    Args:
        missing: only where there is no page, since the look that made the audit was killed before it wrote one.
    """
    if decision.outcome != "audited" or decision.audit is None:
        return
    folder = line.root / AUDITS / decision.audit
    # an audit that somebody has deleted has no page any more; its entry in the index stays as history
    if not (folder / "report").is_dir() or (missing and (folder / INDEX).is_file()):
        return
    try:
        write_page(config, folder)
    except NeuronLensError as error:  # what is decided is decided
        log.warning("%-8s  %s", "page", error)


def watch(look: Callable[[], object], next_look: Callable[[], float]) -> None:
    """Look again and again, until this process is interrupted.

    Args:
        look: looks once.
        next_look: seconds until the next time.
    """
    while True:
        try:
            look()
        except NeuronLensError as error:  # a server or a disk that is away for the moment is asked again
            log.warning("%-8s  %s", "line", error)
        time.sleep(max(0.0, next_look()))


def _decide(config: Config, checkpoint: Incoming, line: Line, key: str, *, use_flow: bool) -> Decision:
    from tasks.comparing import judged  # imports what computes

    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    plain = Decision(checkpoint.name, checkpoint.order, key, "error", at=at)
    if checkpoint.problem is not None:
        return replace(plain, error=checkpoint.problem)
    try:
        earlier = _same(line, key)
        name = earlier or audit_id(config)
        folder = line.root / AUDITS / name
        run_audit(config, folder, use_flow=use_flow, create=True)
        before = _before(line, checkpoint)
        comparison = None if before is None else _compared(line.root / AUDITS / before, folder)
        first = not any(decision.order < checkpoint.order for decision in line.decisions())
        gates = judged(config.gates, folder, comparison, first=first)
    except (
        ConfigError,
        StoreError,
        UnreachableError,
    ):  # of every checkpoint alike: told at once, and nothing is decided
        raise
    except NeuronLensError as error:
        return replace(plain, error=str(error))
    fingerprint = identities(config, ["checkpoint"])["checkpoint"]
    return replace(
        plain,
        outcome="audited" if earlier is None else "same",
        audit=name,
        fingerprint=fingerprint,
        before=before,
        gates=[finite(asdict(gate)) for gate in gates],
    )


def _same(line: Line, key: str) -> str | None:
    """Name of the audit of the same bytes, told the same; None where the line holds none."""
    found = (decision.audit for decision in line.decisions() if decision.key == key and decision.audit is not None)
    return next((name for name in found if (line.root / AUDITS / name).is_dir()), None)


def _compared(before: Path, folder: Path) -> Path:
    """Folder of the comparison with the audit before, which MLflow knows from now on."""
    from tasks.comparing import compared  # imports what computes

    audit = open_existing(folder)
    made, _ = compared(before, folder, seed=audit.config.seed)
    if before != folder:
        finish_comparison(before, audit, made)
    return made


def _before(line: Line, checkpoint: Incoming) -> str | None:
    """Name of the audit of the nearest checkpoint before this one that has one."""
    earlier = [
        decision
        for decision in line.decisions()
        if decision.audit is not None
        and decision.order < checkpoint.order
        and (line.root / AUDITS / decision.audit).is_dir()
    ]
    return max(reversed(earlier), key=lambda decision: decision.order).audit if earlier else None  # its last word


def _of(config: Config, checkpoint: Incoming) -> Config:
    told = config.checkpoint.model_copy(update={"path": checkpoint.path, "revision": checkpoint.revision})
    return config.model_copy(update={"checkpoint": told})


def _told(config: Config) -> str:
    """Identity of what every audit of the line is told, and of its data."""
    values = config.model_dump(mode="json", exclude={*SHARED})
    for section, names in (
        ("checkpoint", ("path", "revision")),
        ("dataset", ("path",)),
        ("evaluate", ("auxiliary", "questions")),
    ):
        for name in names:
            values[section].pop(name)
    return hash_value([values, identities(config, _OUTSIDE)])


def _identity(config: Config, checkpoint: Incoming) -> str:
    """Of a checkpoint's bytes; of the state of its files where it is broken, so that it is looked at again when they change."""
    if checkpoint.problem is None:
        try:
            return identities(config, ["checkpoint"])["checkpoint"]
        except NeuronLensError as error:
            return hash_value([checkpoint.name, str(error)])
    folder = Path(checkpoint.path)  # or what a registry names and cannot give
    stats = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*"))
    return hash_value([checkpoint.name, checkpoint.problem, stats])


def in_words(decision: Decision) -> str:
    """A line that tells a decision."""
    if decision.error is not None:
        return f"{decision.checkpoint}: not audited: {decision.error}"
    since = f", against {decision.before}" if decision.before else ""
    failed = [
        f"{gate['gate']} {gate['verdict']}" + (f" ({gate['number']})" if gate["number"] else "")
        for gate in decision.gates
        if gate["verdict"] != "PASS" and gate["waived"] is None
    ]
    told = "; ".join(failed) or (f"{len(decision.gates)} gates passed" if decision.gates else "no gates")
    how = "the same bytes as" if decision.outcome == "same" else "audited as"
    return f"{decision.checkpoint}: {how} {decision.audit}{since}: {told}"


def worst(decisions: Sequence[Decision]) -> int:
    """Exit code of what was decided: 3 where a checkpoint could not be audited, else that of the gates, 0 where none are named."""
    from neuronlens.comparison.gates import Judged

    if any(decision.error is not None for decision in decisions):
        return 3
    codes = {exit_code([Judged(**gate) for gate in decision.gates]) for decision in decisions if decision.gates}
    return next((code for code in (1, 4) if code in codes), 0)


def line_here(source: str) -> Line:
    """The line of a source in the workspace around the current folder, which is made where there is none."""
    here = Path.cwd()
    workspace = Workspace.find(here) or Workspace.create(here)
    return Line.of(source, workspace.root)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def times(every: str | None, cron: str | None) -> Callable[[], float]:
    """Seconds until the next look, whenever it is asked.

    Args:
        every: such as `10m`; the default where neither is given.
        cron: such as `0 3 * * *`, in local time.

    Raises:
        ConfigError: it is no time, no cron expression, or both are given.
    """
    if every is not None and cron is not None:
        raise ConfigError("say the same twice", where="--every and --cron", cure="Give one of them.")
    if cron is not None:
        return _by_cron(cron)
    period, start = seconds(every or "10m", "--every"), time.monotonic()

    def left() -> float:
        return period - (time.monotonic() - start) % period

    return left


def seconds(text: str, where: str) -> float:
    """The seconds in a text such as `90s`, `10m`, `6h` or `1d`.

    Args:
        where: what the text was given for.

    Raises:
        ConfigError: it is no time.
    """
    given = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if given is None or not float(given[1]):
        raise ConfigError(f"{text!r} is no time", where=where, cure="Write it as 90s, 10m, 6h or 1d.")
    return float(given[1]) * _UNITS[given[2]]


def longest_gap(schedule: Mapping[str, Any]) -> float | None:
    """Seconds between two looks of a schedule as prefect.yaml has it, at most; None where that is not known.

    Raises:
        ConfigError: its cron expression is none, or never comes.
    """
    if isinstance(schedule.get("interval"), int | float):
        return float(schedule["interval"])
    if "cron" not in schedule:
        return None
    _by_cron(schedule["cron"])
    from cronsim import CronSim

    times = [*islice(CronSim(schedule["cron"], datetime.now()), 100)]
    return max(((b - a).total_seconds() for a, b in pairwise(times)), default=None)


def _by_cron(text: str) -> Callable[[], float]:
    from cronsim import CronSim, CronSimError

    def left() -> float:
        now = datetime.now().astimezone()
        return (next(CronSim(text, now)) - now).total_seconds()

    try:
        left()
    except CronSimError as error:
        raise ConfigError(
            f"{text!r} is no cron expression ({error})",
            where="--cron",
            cure='Write it as "0 3 * * *": minute, hour, day of the month, month, day of the week.',
        ) from None
    except StopIteration:
        raise ConfigError(f"{text!r} never comes", where="--cron", cure="Check the day against the month.") from None
    return left
