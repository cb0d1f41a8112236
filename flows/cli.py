"""The command line, one thin function per verb. What takes time to import is imported inside the verbs, so that help is instant."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.printing import AsJson, print_json, tell
from neuronlens.errors import ArtifactError, ConfigError, NeuronLensError, UserError, did_you_mean
from tasks.environment import set_environment

if TYPE_CHECKING:
    from neuronlens.config import Config

app = typer.Typer(
    help="Audit transformer checkpoints by the activation ranges of their neurons.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="PATH|HUB_ID[@REV]", help="Folder of a checkpoint, or its hub id."),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="FILE|hub:ID", help="Labelled text: Parquet, CSV, JSON Lines, or a hub id."),
]
Text = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Column with the text.")]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Column with the concept.")]
Split = Annotated[str | None, typer.Option("--split", metavar="COLUMN", help="Column with the split.")]
Params = Annotated[
    Path | None, typer.Option("--params", metavar="FILE", help="Parameters; ./params.yaml where there is one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="One parameter, such as interventions.tau=[2.0,2.5]; repeatable."
    ),
]


Audits = Annotated[
    list[Path] | None, typer.Argument(metavar="[AUDIT]...", help="Folders; all of the workspace unless told otherwise.")
]
Remote = Annotated[
    str | None,
    typer.Option(
        "--remote", metavar="NAME|URL", help="A DVC remote, or its address; the default one unless told otherwise."
    ),
]


# typer's own --help imports pydantic on the way to a verb's help (0.2 s), a plain flag does not
@app.callback(invoke_without_command=True, add_help_option=False)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    show_help: Annotated[bool, typer.Option("--help", help="Show this message and exit.")] = False,
) -> None:
    """Audit transformer checkpoints by the activation ranges of their neurons."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"neuronlens {version_of('neuronlens')}")
        raise typer.Exit
    if show_help or context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=not show_help)
        raise typer.Exit(0 if show_help else 2)


@app.command()
def audit(
    checkpoint: Checkpoint = None,
    dataset: Dataset = None,
    text: Text = None,
    label: Label = None,
    split: Split = None,
    params: Params = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the audit goes; audits/ID unless told otherwise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json and nothing else on stdout.")] = False,
    no_flow: Annotated[bool, typer.Option("--no-flow", help="Run without Prefect's engine.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Compute the stages that are current, too.")] = False,
) -> None:
    """Audit a checkpoint on labelled text and write a report."""
    from flows import console
    from flows.engine import default_folder, run_audit

    config = _config(params, overrides, _flags(checkpoint, dataset, text, label, split))
    folder = out or default_folder(config)
    console.show_stages(sys.stderr if as_json else sys.stdout)
    run_audit(config, folder, use_flow=not no_flow, force=force, create=out is None)
    report = folder / "report"
    if as_json:
        typer.echo((report / "audit.json").read_bytes(), nl=False)
    else:
        console.show_results(report / "audit.json")
        typer.echo(f"\n{report / 'report.html'}")


@app.command()
def plan(
    checkpoint: Checkpoint = None,
    dataset: Dataset = None,
    text: Text = None,
    label: Label = None,
    split: Split = None,
    params: Params = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the audit would go; audits/ID unless told otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell, without doing it, what an audit would compute and why, which way its work takes, and what that is expected to cost."""
    from flows.console import show_decisions, show_plan
    from flows.engine import default_folder
    from tasks.audits import foresee

    config = _config(params, overrides, _flags(checkpoint, dataset, text, label, split))
    folder = out or default_folder(config)
    decided = foresee(config, folder)
    if not as_json:
        show_decisions(folder, decided)
    computed = [made.stage for made in decided if made.outcome == "computed"]
    cost = None
    if {"extract", "fit", "evaluate"} & {*computed}:
        from neuronlens.plan import plan as planned

        cost = planned(config)
    if as_json:
        print_json({"folder": folder, "stages": decided, "cost": cost})
    elif cost is not None:
        show_plan(cost, computed)


@app.command()
def status(
    audit: Audits = None,
    as_json: AsJson = False,
) -> None:
    """Tell which audits there are, and whether what lies in them is what their parameters ask for."""
    from flows.console import show_status
    from flows.engine import state_of_audits

    found = state_of_audits(audit)
    if as_json:
        print_json([{"audit": folder.name, "folder": folder, "stages": stages} for folder, stages in found.items()])
    else:
        show_status(found)


@app.command()
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
    from flows.console import show_changes
    from flows.engine import finish_comparison
    from tasks.audits import open_existing
    from tasks.comparing import compared, transferred

    audit = open_existing(after)
    folder, found = (
        transferred(before, after, audit.config, out)
        if transfer
        else compared(before, after, out, seed=audit.config.seed)
    )
    tell(found, show_changes, as_json=as_json)
    if not as_json:
        typer.echo(f"\n{folder}")
    finish_comparison(before, audit, folder)


@app.command()
def gate(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="Its folder.")],
    since: Annotated[
        Path | None, typer.Option(metavar="AUDIT", help="The audit before it, for gates on changes.")
    ] = None,
    params: Params = None,
    as_json: AsJson = False,
) -> int:
    """Judge an audit by the gates of params.yaml. Exit code 0: all passed, 1: one failed, 4: one is not decided."""
    from flows.console import show_gates
    from neuronlens.comparison.gates import exit_code
    from tasks.audits import open_existing
    from tasks.comparing import compared, judged

    config = (
        open_existing(audit).config if params is None and not Path("params.yaml").is_file() else _config(params, None)
    )
    comparison = None if since is None else compared(since, audit, seed=config.seed)[0]
    verdicts = judged(config.gates, audit, comparison)
    tell(verdicts, show_gates, as_json=as_json)
    return exit_code(verdicts)


@app.command()
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
    no_flow: Annotated[bool, typer.Option("--no-flow", help="Run without Prefect's engine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print the decisions as JSON.")] = False,
) -> int:
    """Audit every checkpoint of a line once it is whole, compare it with the one before it, and judge it by the gates."""
    from flows import console
    from flows import watch as watching

    config = _config(params, overrides, _flags(None, dataset, None, None, None))
    next_look = watching.times(every, cron)
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


@app.command("list")
def list_audits(
    as_json: AsJson = False,
) -> None:
    """List all audits of the workspace, with their main numbers and the verdicts of their gates."""
    from flows.console import show_list
    from flows.engine import audits_of, workspace_here
    from tasks.catalogue import listed

    workspace = workspace_here()
    tell(listed(workspace.root, audits_of(workspace)), show_list, as_json=as_json)


@app.command()
def show(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="Its folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json and nothing else on stdout.")] = False,
) -> None:
    """Show the results of an audit that is there."""
    from flows.console import show_results

    file = audit / "report" / "audit.json"
    if not file.is_file():
        raise UserError(
            "holds no finished audit", where=str(audit), cure="Name the folder of one: neuronlens list shows them."
        )
    if as_json:
        typer.echo(file.read_bytes(), nl=False)
    else:
        show_results(file)
        typer.echo(f"\n{audit / 'report' / 'report.html'}")


@app.command()
def trend(
    line: Annotated[str, typer.Argument(metavar="LINE", help="What was watched, or its name below lines/.")],
    as_json: AsJson = False,
) -> None:
    """Show the main numbers of a line's checkpoints, one after another."""
    from flows.console import show_trend
    from flows.engine import audits_of, workspace_here
    from tasks.catalogue import lines_of
    from tasks.catalogue import trend as found_trend
    from tasks.lines import Line

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


@app.command()
def push(
    audit: Audits = None,
    remote: Remote = None,
    as_json: AsJson = False,
) -> None:
    """Send audits, and everything that was ever computed for them, to a DVC remote."""
    from flows.engine import exchange

    tell(
        {"files": exchange("push", audit, remote)},
        lambda sent: typer.echo(f"{sent['files']} files sent"),
        as_json=as_json,
    )


@app.command()
def pull(
    audit: Audits = None,
    remote: Remote = None,
    as_json: AsJson = False,
) -> None:
    """Get audits, and everything that team-mates have computed, from a DVC remote."""
    from flows.engine import exchange

    tell(
        {"files": exchange("pull", audit, remote)},
        lambda got: typer.echo(f"{got['files']} files came"),
        as_json=as_json,
    )


@app.command()
def lineage(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="Its folder.")],
    as_json: AsJson = False,
) -> None:
    """Print the chain from an audit's report to the weights and rows behind it; every hash is computed again."""
    from flows.console import show_lineage
    from tasks.audits import open_existing
    from tasks.lineage import lineage as chain

    links = chain(open_existing(audit))
    tell(links, show_lineage, as_json=as_json)
    if any(link.holds is False for link in links):
        raise ArtifactError(f"{audit}: the chain is broken where it says so; run the audit again to mend it")


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start the workspace's Prefect and MLflow servers, and print their addresses."""
    from dataclasses import asdict

    from flows import services
    from flows.engine import workspace_here

    found = services.up(workspace_here().root, lambda line: typer.echo(line, err=True))
    if as_json:
        print_json({name: asdict(service) | {"url": service.url} for name, service in found.items()})
        return
    for name, service in found.items():
        typer.echo(f"{name:8s} {service.url}")


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop the workspace's servers."""
    from flows import services
    from flows.engine import workspace_here

    stopped = services.down(workspace_here().root)
    if as_json:
        print_json(stopped)
        return
    for name in stopped:
        typer.echo(f"{name} stopped")


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")] = False,
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


@app.command()
def example(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where it goes.")] = Path("data/example"),
    as_json: AsJson = False,
) -> None:
    """Make the embedded example: labelled text and two small models."""
    from tasks.audits import make_example

    make_example(out, lambda line: typer.echo(line, err=True))
    tell({"folder": out}, lambda made: typer.echo(made["folder"]), as_json=as_json)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="prepare, extract, fit, evaluate or report.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the audit.")],
    params: Params = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Bring one stage of an audit up to date, as `dvc repro` does."""
    from flows import console
    from flows.engine import run_one
    from neuronlens.stages import STAGES
    from tasks.pipeline import AUDIT_FILE

    if name not in STAGES:
        raise ConfigError(f"unknown stage {name!r}", cure=did_you_mean(name, STAGES))
    console.show_stages(sys.stderr if as_json else sys.stdout)
    own = params is None and not overrides and (out / AUDIT_FILE).is_file()
    made = run_one(name, None if own else _config(params, overrides), out)
    if as_json:
        print_json(made)


@app.command()
def schema() -> None:
    """Print the JSON schema of params.yaml, for editors that check it."""
    import json

    from neuronlens.config import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


_ROOM = {
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room in your quota",
    errno.EFBIG: "Allow larger files there",
    errno.EROFS: "Make it writable, or name another folder with --out",
    errno.EACCES: "Make it writable, or name another folder with --out",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The console entry: run a verb and turn what it raises into an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    set_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a minus sign must not end an audit where output is ASCII
    resume = shlex.join(["neuronlens", *(word for word in arguments if word != "--force")])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends a job politely interrupts it
    try:
        code = app(args=list(arguments), prog_name="neuronlens", standalone_mode=False) or 0  # a verb returns None
    except typer.TyperException as error:
        _complain(f"{error.format_message()} See neuronlens --help.")
        return 2
    except NeuronLensError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in _ROOM:
            traceback.print_exc()
        _complain(
            f"{error.strerror or error}: {error.filename or 'while writing'}. {_ROOM.get(error.errno or 0, 'The run broke')}; "
            f"what is finished is kept. To resume: {resume}"
        )
        return 3
    except Exception as error:  # whatever broke: its traceback is kept, and the way to go on stands below it
        if _began_with_signal(error):
            code = 130
        else:
            traceback.print_exc()
            _complain(f"the run broke; what is finished is kept. To resume: {resume}")
            return 3
    if code == 130:
        _complain(f"interrupted; what is finished is kept. To resume: {resume}")
    return code


def _began_with_signal(error: BaseException) -> bool:
    """Whether a signal to end is what the error came of: Prefect fails while it handles one that reaches it amid its own bookkeeping."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    return any(isinstance(each, KeyboardInterrupt) or type(each).__name__ == "TerminationSignal" for each in chain)


def _complain(message: str) -> None:
    typer.echo(f"neuronlens: {' '.join(message.split())}", err=True)


def _flags(
    checkpoint: str | None, dataset: str | None, text: str | None, label: str | None, split: str | None
) -> dict[str, str | None]:
    return {
        "checkpoint.path": checkpoint,
        "dataset.path": dataset,
        "dataset.text": text,
        "dataset.label": label,
        "dataset.split": split,
    }


def _config(
    params: Path | None, overrides: Sequence[str] | None, flags: Mapping[str, str | None] | None = None
) -> Config:
    from flows.configured import config_of

    return config_of(params, overrides, flags)
