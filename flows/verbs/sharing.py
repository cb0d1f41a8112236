"""Verbs that share: remotes and servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from flows.printing import AsJson, print_json, tell
from flows.verbs.options import (
    Audits,
    Remote,
)


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


VERBS: Mapping[str, Callable[..., object]] = {
    "push": push,
    "pull": pull,
    "up": up,
    "down": down,
}
