"""Verbs on one audit: made, foreseen, shown, traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from flows.printing import AsAuditJson, AsJson, print_json, tell
from flows.verbs.options import Asked, Audit, Audits, NoFlow, Out, Overrides, Params, asking, configured
from neuronlens.errors import ArtifactError, ConfigError, did_you_mean


@asking
def audit(
    asked: Asked,
    out: Out = None,
    as_json: AsAuditJson = False,
    no_flow: NoFlow = False,
    force: Annotated[bool, typer.Option("--force", help="Compute the stages that are current, too.")] = False,
) -> None:
    """Audit a checkpoint on labelled text and write a report."""
    from flows import console
    from flows.engine import default_folder, run_audit, write_page
    from neuronlens.report.finished import audit_of

    config = asked.config()
    folder = out or default_folder(config)
    console.show_stages(sys.stderr if as_json else sys.stdout)
    outcomes = run_audit(config, folder, use_flow=not no_flow, force=force, create=out is None)
    page = write_page(config, folder, outcomes)
    document = folder / "report" / "audit.json"
    if as_json:
        typer.echo(document.read_bytes(), nl=False)
    else:
        console.show_results(audit_of(folder))
        typer.echo(f"\n{page}")


@asking
def plan(
    asked: Asked,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Tell, without doing it, what an audit would compute and why, which way its work takes, and what that is expected to cost."""
    from flows.console import show_decisions, show_plan
    from flows.engine import COSTLY, default_folder
    from tasks.audits import foresee

    config = asked.config()
    folder = out or default_folder(config)
    decided = foresee(config, folder)
    if not as_json:
        show_decisions(folder, decided)
    computed = [made.stage for made in decided if made.outcome == "computed"]
    cost = None
    if COSTLY & {*computed}:
        from neuronlens.plan import plan as planned

        cost = planned(config)
    if as_json:
        print_json({"folder": folder, "stages": decided, "cost": cost})
    elif cost is not None:
        show_plan(cost, computed)


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


def show(
    audit: Audit,
    as_json: AsAuditJson = False,
) -> None:
    """Show the results of an audit that is there."""
    from flows.console import show_results
    from neuronlens.report.finished import audit_of, document_of

    file, document = document_of(audit), audit_of(audit)
    if as_json:
        typer.echo(file.read_bytes(), nl=False)
        return
    show_results(document)
    pages = (audit / "index.html", audit / "report" / "report.html")
    page = next((page for page in pages if page.is_file()), None)
    typer.echo(f"\n{page or f'there is no page of it yet: neuronlens report {audit} writes one'}")


def report(
    audit: Audit,
    since: Annotated[
        Path | None,
        typer.Option(
            metavar="AUDIT",
            help="The audit before it, which it is compared with; that of its line unless told otherwise.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; AUDIT/index.html unless told otherwise.")
    ] = None,
    show_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the page of an audit that is there: verdict, gates, what changed, trend, and everything that it found."""
    from flows.configured import gates_of
    from flows.engine import told
    from tasks.around import around
    from tasks.audits import open_existing
    from tasks.comparing import compared
    from tasks.pages import write_pages
    from tasks.surroundings import surroundings

    found = open_existing(audit)
    folder = None if since is None else compared(since, audit, seed=found.config.seed)[0]
    place = surroundings(found, gates_of(found.config), since, folder)
    written = told(write_pages(around(place), out=out, anew=True))
    tell({"page": written.page, "verdict": written.verdict}, lambda made: typer.echo(made["page"]), as_json=as_json)
    if show_it:
        import webbrowser

        webbrowser.open(written.page.resolve().as_uri())


def lineage(
    audit: Audit,
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
    made = run_one(name, None if own else configured(params, overrides), out)
    if as_json:
        print_json(made)


def example(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where it goes.")] = Path("data/example"),
    as_json: AsJson = False,
) -> None:
    """Make the embedded example: labelled text and two small models."""
    from tasks.audits import make_example

    make_example(out, lambda line: typer.echo(line, err=True))
    tell({"folder": out}, lambda made: typer.echo(made["folder"]), as_json=as_json)


def schema() -> None:
    """Print the JSON schema of params.yaml, for editors that check it."""
    import json

    from neuronlens.config import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


VERBS: Mapping[str, Callable[..., object]] = {
    "audit": audit,
    "plan": plan,
    "status": status,
    "show": show,
    "report": report,
    "lineage": lineage,
    "stage": stage,
    "example": example,
    "schema": schema,
}
