"""All verbs, in the order of the help. What takes time to import is imported inside them, so that help is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.verbs import audits, lenses, lines, neurons, sharing

app = typer.Typer(
    help="Audit transformer checkpoints by the activation ranges of their neurons.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (audits, neurons, lenses, lines, sharing):
    for name, verb in verbs.VERBS.items():
        app.command(name)(verb)


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
