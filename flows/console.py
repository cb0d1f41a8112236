"""What the command line prints: a line per stage, and the results as a table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from flows.engine import log
from neuronlens.comparison.gates import beside
from neuronlens.pages.text import NOT_MEASURED, count, number, points, points_between, significant, visible
from neuronlens.report.layers import joint_means
from neuronlens.report.sections.changes import words
from neuronlens.report.table import KIND_NAMES, Interval, ResultRow, result_rows
from neuronlens.report.verdict import verdict

if TYPE_CHECKING:
    from flows.deploy import Deployed
    from neuronlens.comparison.gates import Judged
    from neuronlens.evaluation.harness import TaskMetric
    from neuronlens.plan import Plan
    from neuronlens.stages import Outcome
    from tasks.lineage import Link


def show_stages(stream: TextIO) -> None:
    """Write a line to `stream` for every stage that ends."""
    logging.raiseExceptions = False  # a reader that has gone away, such as head, does not end the audit
    log.handlers = [logging.StreamHandler(stream)]
    log.setLevel(logging.INFO)
    log.propagate = False


def show_results(audit: Mapping[str, Any]) -> None:
    """Print the main rows of an audit.json; its warnings go to stderr."""
    rows = result_rows(audit)
    table = _table(rows)
    console = _console(table)
    console.print("", _caption(rows, audit), "", table, sep="\n")
    together = joint_means(audit)
    if together:
        console.print("\nselectivity of the best sites edited together, and its gain over the best alone")
    for row in together:
        found, gain = (_drop(row[name], (row[f"{name}_low"], row[f"{name}_high"])) for name in ("selectivity", "gain"))
        console.print(f"{row['count']} sites  {found}, gain {gain}: {row['verdict']}", soft_wrap=True)
    for warning in audit["trust"]["warnings"]:
        sys.stderr.write(f"warning: {visible(warning)}\n")


def _console(table: Table) -> Console:
    """As wide as the table: rich would shorten the cells of a wider one, and it is better that the terminal wraps its lines."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    return console


def _caption(rows: Sequence[ResultRow], audit: Mapping[str, Any]) -> str:
    base = audit["base"]
    known = f"unedited: accuracy {points(base['accuracy'])} % of {count(base['n'], 'test row')}"
    if rows and rows[0].base_perplexity is not None:
        known += f", perplexity (ppl) {significant(rows[0].base_perplexity)}"
    swept = [row for row in rows if not row.chosen and row.kind != "leace"]
    top = ", ".join(dict.fromkeys(f"{row.top:g}" for row in swept))
    tau = ", ".join(dict.fromkeys(f"{row.tau:g}" for row in swept if row.tau is not None)) or "none"
    operator = ", ".join(dict.fromkeys(str(row.operator) for row in swept))
    return (
        f"{known}\nedited (top {top}, tau {tau}, {operator}): drops of accuracy in percentage points,\n"
        f"means of {count(len(base['concepts']), 'concept')} [95 % interval]; per site and ranking of the neurons"
    )


def _table(rows: Sequence[ResultRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    measured = any(row.perplexity is not None for row in rows)
    table.add_column("", no_wrap=True)
    for name in ("target", "others", "selectivity", *(["ppl"] if measured else [])):
        table.add_column(name, justify="right", no_wrap=True)
    shown = None
    for row in rows:
        heading = (row.site, "chosen on validation" if row.chosen else f"by {row.saliency}")
        # controls and references stand below those they belong to
        if heading != shown and (row.chosen or row.kind in ("gaussian", "full")):
            table.add_row(*heading, style="bold")
            shown = heading
        cells = [
            _drop(row.target_drop, row.target_drop_interval),
            _drop(row.complement_drop, row.complement_drop_interval),
            _drop(row.selectivity, row.selectivity_interval),
            *([significant(row.perplexity)] if measured else []),
        ]
        table.add_row(KIND_NAMES[row.kind], *cells)
    return table


def _drop(value: float, interval: Interval | None) -> str:
    """In percentage points."""
    between = points_between(*interval) if interval else ""
    return f"{points(value)} {between}".rstrip()


def show_tasks(found: Sequence[TaskMetric]) -> None:
    """Print the metrics of the harness's tasks, unedited and edited, each with its standard error."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("task", "metric", "n", "unedited", "edited", "difference"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right", no_wrap=True)
    for each in found:
        table.add_row(
            visible(each.task),
            visible(each.metric if each.filter == "none" else f"{each.metric} ({each.filter})"),
            NOT_MEASURED if each.n is None else f"{each.n:,}",
            _with_error(each.before, each.before_stderr),
            _with_error(each.after, each.after_stderr),
            _with_error(each.difference, each.difference_stderr, sign=True),
        )
    _console(table).print(table)


def _with_error(value: float, error: float | None, *, sign: bool = False) -> str:
    return number(value, 4, sign=sign) + ("" if error is None else f" \N{PLUS-MINUS SIGN} {number(error, 4)}")


def show_decisions(folder: Path, decided: Sequence[Outcome]) -> None:
    """Print what is going to become of each stage of an audit."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("stage", "will be", "why"):
        table.add_column(name, no_wrap=True)
    for made in decided:
        table.add_row(made.stage, made.outcome, visible(made.reason))
    console = _console(table)
    console.print(f"{folder}\n", soft_wrap=True)
    console.print(table)
    console.print()


def show_status(audits: Mapping[Path, Sequence[Outcome]]) -> None:
    """Print a line for each audit: what in it is not as its parameters ask for."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("audit", "state", "why"):
        table.add_column(name, no_wrap=True)
    for folder, decided in audits.items():
        stale = [made for made in decided if made.outcome != "current"]
        if not stale:
            table.add_row(folder.name, "current", "")
            continue
        state = "not begun" if all(made.reason.startswith(("not there", "follows")) for made in decided) else "stale"
        table.add_row(folder.name, state, visible(f"{stale[0].stage}: {stale[0].reason}"))
    _console(table).print(table if audits else "no audits yet: neuronlens audit")


def show_gates(verdicts: Sequence[Judged]) -> None:
    """Print a line for each gate, what was found and the verdict, then what they say together, as the page does."""
    table = _plain_table(("gate", "rule", "decided by", "found", "95 %", "verdict", ""))
    for gate in verdicts:
        value = "" if gate.value is None else f"{gate.value:.4g}"
        between = "" if gate.low is None or gate.high is None else f"{gate.low:.4g} to {gate.high:.4g}"
        told = f"waived: {gate.waived}" if gate.waived else gate.note or ""
        table.add_row(
            visible(gate.gate), gate.rule, visible(gate.number or ""), value, between, gate.verdict, visible(told)
        )
    console = _console(table)
    if verdicts:
        console.print(table, "", sep="\n")
    ruling = verdict(beside([asdict(gate) for gate in verdicts], {}))
    console.print(f"{ruling.mark} {ruling.word}: {ruling.sentence}", soft_wrap=True)


_CHANGED = (
    *("base_accuracy", "base_confidence", "base_log_perplexity"),
    *("selectivity", "target_accuracy_drop", "complement_accuracy_drop"),
)


def show_changes(comparison: Mapping[str, Any]) -> None:
    """Print what a comparison.json or transfer.json says: changes over all concepts, what is decided per concept, and drift."""
    before, after = (audit["audit"] for audit in comparison["audits"])
    table = _plain_table(("change", "site", "before", "after", "difference", "95 %", "p"))
    for change in comparison["changes"]:
        if change["concept"] is None and change["quantity"] in _CHANGED and change["method"] in (None, "tuned"):
            table.add_row(words(change), change["site"] or "", *_change_cells(change))
    console = _console(table)
    console.print(f"{after} against {before}", soft_wrap=True)
    if comparison.get("identical"):
        console.print("the models read, say and do the same to the last bit", soft_wrap=True)
    console.print("", table, sep="\n")
    decided = [
        change
        for change in comparison["decided"]
        if change["concept"] is not None and change["method"] in (None, "tuned")
    ]
    if decided:
        single = _plain_table(("concept", "change", "site", "before", "after", "difference", "95 %", "p"))
        for change in decided:
            single.add_row(visible(change["concept"]), words(change), change["site"] or "", *_change_cells(change))
        _console(single).print("", single, sep="\n")
    if comparison.get("drift"):
        drift = _plain_table(
            ("site", "concept", "rows", "farthest neuron", "noise floor", "beyond it", "moved", "widened", "narrowed")
        )
        for row in comparison["drift"]:
            counts = [str(row[name]) for name in ("beyond_floor", "moved", "widened", "narrowed")]
            far, floor = (f"{row[name]:.3g}" for name in ("max_wasserstein", "floor"))
            drift.add_row(row["site"], visible(row["concept"]), str(row["n"]), far, floor, *counts)
        _console(drift).print("", drift, sep="\n")


def show_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each audit."""
    table = _plain_table(
        ("audit", "model", "data", "accuracy", "selectivity", "on target", "on others", "line", "gates")
    )
    for row in rows:
        shares = [points(row[name]) for name in ("accuracy", "selectivity", "target_drop", "complement_drop")]
        gates = (
            ""
            if row["line"] is None
            else _gates(row["passed"], row["failed"], row["gates_not_decided"], row["waived"], row["not_applicable"])
        )
        table.add_row(
            visible(row["audit"]), row["model_type"], visible(row["dataset"]), *shares, row["line"] or "", gates
        )
    _console(table).print(table if rows else "no audits yet: neuronlens audit")


def show_trend(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each checkpoint of a line."""
    table = _plain_table(
        ("checkpoint", "accuracy", "perplexity", "selectivity", "on target", "on others", "gates", "audit")
    )
    for row in rows:
        if row["error"] is not None:
            table.add_row(visible(row["checkpoint"]), *[""] * 5, "not audited", visible(row["error"]))
            continue
        shares = [points(row[name]) for name in ("selectivity", "target_drop", "complement_drop")]
        gates = _gates(row["passed"], row["failed"], row["not_decided"], row["waived"], row["not_applicable"])
        level = [points(row["accuracy"]), significant(row["perplexity"])]
        told = f"{row['audit']} (the same bytes)" if row["outcome"] == "same" else row["audit"]
        table.add_row(visible(row["checkpoint"]), *level, *shares, gates, told)
    _console(table).print(table)


def _gates(passed: int, failed: int, undecided: int, waived: int, inapplicable: int) -> str:
    counts = {
        "passed": passed,
        "FAILED": failed,
        "not decided": undecided,
        "waived": waived,
        "not applicable": inapplicable,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _change_cells(change: Mapping[str, Any]) -> list[str]:
    between = f"{change['low']:.3g} to {change['high']:.3g}"
    return [
        f"{change['before']:.3g}",
        f"{change['after']:.3g}",
        f"{change['value']:+.3g}",
        between,
        f"{change['adjusted']:.2g}",
    ]


def _plain_table(names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


_HOLDS = {True: "ok", False: "BROKEN", None: "unchecked"}


def show_lineage(links: Sequence[Link]) -> None:
    """Print a chain, from the report backwards."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(4):
        table.add_column(no_wrap=True)
    for link in links:
        table.add_row(_HOLDS[link.holds], link.name, (link.identity or "")[:16], visible("; ".join(link.told)))
    _console(table).print(table)


def show_deployed(deployed: Deployed) -> None:
    """Print what a Prefect server knows now, and what to run for it."""
    lines = [("server", deployed.server), ("deployed", ", ".join(deployed.deployments))]
    lines.append(("pool", f"{deployed.pool}, queue {deployed.queue}, {count(deployed.at_once, 'run')} at once"))
    when = deployed.schedule
    if when is not None:
        often = f"every {when['interval']:g} s" if "interval" in when else f"{when.get('cron', when.get('rrule'))}"
        zone = f" ({when['timezone']})" if when.get("timezone") else ""
        lines.append(("schedule", f"{when['parameters']['source']}: {often}{zone}"))
    lines += [("notifies", name.removeprefix("neuronlens: ")) for name in deployed.automations]
    lines.append(("workers", "one per GPU, on the machine that has them; each has a run at most:"))
    for name, told in lines:
        sys.stdout.write(f"{name:9s} {visible(told)}\n")
    for command in deployed.workers:
        sys.stdout.write(f"{command}\n")


def show_plan(found: Plan, stages: Sequence[str]) -> None:
    """Print what an audit is expected to do, a line for each part.

    Args:
        stages: those that will be computed.
    """
    steps = [step for step in found.steps if step.stage in stages]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("stage", "what"):
        table.add_column(name, no_wrap=True)
    for name in ("passes", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        passes = "" if step.passes is None else f"{step.passes:.2f}"
        table.add_row(step.stage, step.what, passes, _time(step.seconds))
    all_passes, seconds = sum(step.passes or 0 for step in steps), sum(step.seconds for step in steps)
    table.add_row("all", "at most", f"{all_passes:.2f}", _time(seconds), style="bold")
    console = _console(table)
    rows = ", ".join(f"{size:,} {split}" for split, size in found.rows.items())
    batches = f"batches of {found.batch_tokens:,} tokens, {found.padding:.1%} of them padding"
    console.print(f"{rows} rows; {found.tokens:,} tokens; {batches}", soft_wrap=True)
    console.print(f"a plain forward pass over them: {_time(found.pass_seconds)}, by one batch\n", soft_wrap=True)
    console.print(table)
    if "extract" in stages:
        console.print("", _on_disk(found), *found.notes, sep="\n", soft_wrap=True)


def plan_line(found: Plan, stages: Sequence[str]) -> str:
    """What an audit is expected to do, in a line.

    Args:
        stages: those that will be computed.
    """
    seconds = sum(step.seconds for step in found.steps if step.stage in stages)
    told = f"{', '.join(stages)}: {_time(seconds)} of the model's time"
    if "extract" in stages:
        told += f"; {_on_disk(found)}" + "".join(f"; {note}" for note in found.notes)
    return told


def _on_disk(found: Plan) -> str:
    from neuronlens.activations.disk import size  # which knows what rows are made of

    what = "activations on disk" if found.keeps_rows else "statistics on disk, in place of activations"
    return f"{what}: about {size(found.stored_bytes)}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
