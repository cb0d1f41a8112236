"""Verbs on several audits: watched, compared, judged, listed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.printing import AsJson, print_json, tell
from flows.verbs.options import Audit, Dataset, NoFlow, Overrides, Params, configured
from neuronlens.errors import ConfigError, UserError, did_you_mean, redacted


def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder of checkpoint-STEP folders, models:/NAME of MLflow, or a hub id."
        ),
    ],
    dataset: Dataset = None,
    params: Params = None,
    overrides: Overrides = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="How often to look: 90s, 10m, 6h; 10m unless told otherwise.")
    ] = None,
    cron: Annotated[str | None, typer.Option(metavar="CRON", help='When to look, such as "0 3 * * *".')] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look once and end, with the exit code of the worst verdict.")
    ] = False,
    settled: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Without a change for so long, a folder that is not whole is broken."),
    ] = 60.0,
    no_flow: NoFlow = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print the decisions as JSON.")] = False,
) -> int:
    """Audit every checkpoint of a line once it is whole, compare it with the one before it, and judge it by the gates."""
    from flows import console
    from flows import watch as watching

    config = configured(params, overrides, {"dataset.path": dataset})
    next_look = watching.times(every, cron)
    if not no_flow and any(redacted(each) != each for each in overrides or []):
        raise ConfigError(
            "opens something, and would be kept by Prefect's server",
            where="--set",
            cure="Write it into params.yaml, or let DVC know it: dvc remote modify --local.",
        )
    if as_json and not once:
        raise ConfigError("tells of one look", where="--json", cure="Add --once, or read lines/NAME/record.jsonl.")
    console.show_stages(sys.stderr if as_json else sys.stdout)
    line, found = watching.line_here(source), watching.source_of(source, settled)
    with watching.engine(use_flow=not no_flow):
        if no_flow:
            look = partial(watching.watch_once, config, line, found, use_flow=False)
        else:
            from flows import deployed

            look = partial(deployed.look, source, dataset, params, overrides, settled)
        if once:
            decided = look()
            if as_json:
                print_json(decided)
            elif not decided:
                typer.echo("nothing new since the last look")
            return watching.worst(decided)
        watching.watch(look, next_look)
    return 0


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of an audit.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Folder of the audit that is held against it.")],
    transfer: Annotated[
        bool,
        typer.Option("--transfer", help="Apply BEFORE's ranges to AFTER's checkpoint, and hold them against its own."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where it goes; comparisons/BEFORE--AFTER unless told otherwise."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what changed between two audits of the same rows, paired row by row."""
    from flows.configured import gates_of
    from flows.console import show_changes
    from flows.engine import finish_comparison
    from tasks.around import around
    from tasks.audits import open_existing
    from tasks.comparing import compared, transferred
    from tasks.pages import write_comparison
    from tasks.surroundings import surroundings

    audit = open_existing(after)
    folder, found = (
        transferred(before, after, audit.config, out)
        if transfer
        else compared(before, after, out, seed=audit.config.seed)
    )
    tell(found, show_changes, as_json=as_json)
    page = folder
    if not transfer:
        place = surroundings(audit, gates_of(audit.config), before, folder)
        page = write_comparison(around(place), folder, found, anew=True)
    if not as_json:
        typer.echo(f"\n{page}")
    finish_comparison(before, audit, folder)


def gate(
    audit: Audit,
    since: Annotated[
        Path | None, typer.Option(metavar="AUDIT", help="The audit before it, for gates on changes.")
    ] = None,
    params: Params = None,
    as_json: AsJson = False,
) -> int:
    """Judge an audit by the gates of params.yaml. Exit code 0: all passed, 1: one failed, 4: one is not decided."""
    from flows.configured import gates_of
    from flows.console import show_gates
    from neuronlens.comparison.gates import exit_code
    from tasks.audits import open_existing
    from tasks.comparing import compared, judged

    own = open_existing(audit).config
    gates = gates_of(own, params)
    comparison = None if since is None else compared(since, audit, seed=own.seed)[0]
    verdicts = judged(gates, audit, comparison)
    tell(verdicts, show_gates, as_json=as_json)
    return exit_code(verdicts)


def list_audits(
    as_json: AsJson = False,
) -> None:
    """List all audits of the workspace, with their main numbers and the verdicts of their gates."""
    from flows.console import show_list
    from flows.engine import audits_of, workspace_here
    from tasks.catalogue import listed

    workspace = workspace_here()
    tell(listed(workspace.root, audits_of(workspace)), show_list, as_json=as_json)


def trend(
    line: Annotated[str, typer.Argument(metavar="LINE", help="What was watched, or its name below lines/.")],
    as_json: AsJson = False,
) -> None:
    """Show the main numbers of a line's checkpoints, one after another."""
    from flows.console import show_trend
    from flows.engine import audits_of, workspace_here
    from tasks.catalogue import trend as found_trend
    from tasks.lines import Line, lines_of

    workspace = workspace_here()
    known = lines_of(workspace.root)
    name = line if line in known else Line.of(line, workspace.root).name
    if name not in known:
        raise UserError(
            "no such line",
            where=line,
            cure=did_you_mean(name, known) if known else "Watch one: neuronlens watch SOURCE.",
        )
    tell(found_trend(workspace.root, audits_of(workspace), name), show_trend, as_json=as_json)


def deploy(
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, metavar="N", help="Runs at once; as many as there are GPUs.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SOURCE", help="What is looked at on a schedule; see watch.")
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="TIME", help="How often: 10m, 6h, 1d.")] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="CRON", help='When, "0 3 * * *" unless told otherwise; local time.')
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(metavar="BLOCK_TYPE/NAME", help="A notification block of Prefect, such as slack-webhook/team."),
    ] = None,
    within: Annotated[
        str, typer.Option(metavar="TIME", help="In which a checkpoint that was seen has to be audited.")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Register audits and looks with a Prefect server, and print the commands of the workers that run them."""
    import json
    from dataclasses import asdict

    from flows import watch as watching
    from flows.console import show_deployed
    from flows.deploy import Wanted
    from flows.deploy import deploy as registered
    from flows.engine import workspace_here

    watching.times(every, cron)
    deployed = registered(workspace_here().root, Wanted(gpus, source, every, cron, notify, within))
    if as_json:
        typer.echo(json.dumps(asdict(deployed), indent=2, ensure_ascii=False))
    else:
        show_deployed(deployed)


VERBS: Mapping[str, Callable[..., object]] = {
    "watch": watch,
    "compare": compare,
    "gate": gate,
    "list": list_audits,
    "trend": trend,
    "deploy": deploy,
}
