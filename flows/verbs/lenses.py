"""Verbs on edits: taken out of an audit, and applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.printing import AsJson, tell
from flows.verbs.options import Audit, Checkpoint
from neuronlens.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from neuronlens.values import Positions

Edits = Annotated[
    list[Path],
    typer.Option("--edit", metavar="LENS", help="A lens file; repeatable, of one site they are made in this order."),
]
AtPositions = Annotated[
    str | None,
    typer.Option(
        "--positions",
        metavar="NAME",
        help="all, prompt, last, generated or pooled; the lens's own unless told otherwise.",
    ),
]
OpenedAs = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="checkpoint.KEY=VALUE",
        help="How the checkpoint is opened, such as checkpoint.sae=FOLDER or checkpoint.device_map=auto; repeatable.",
    ),
]
AnyCheckpoint = Annotated[
    bool, typer.Option("--any-checkpoint", help="Edit the model even if the lens is of another checkpoint.")
]


def export(
    audit: Audit,
    concept: Annotated[str, typer.Option("--concept", metavar="NAME", help="What the edit takes away.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Such as sports.lens.safetensors.")],
    method: Annotated[
        str,
        typer.Option("--method", metavar="NAME", help="tuned, paper, whole, joint/2, or a setting of results.parquet."),
    ] = "tuned",
    site: Annotated[
        str | None, typer.Option("--site", metavar="SITE", help="Such as resid_post.3, where an audit has several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the edit of a method of an audit into a file that others can apply."""
    from neuronlens.report.exported import export_lens

    lens = export_lens(audit, concept, method, site)
    lens.save(out)
    told = {
        "file": out,
        "concept": lens.concept,
        "method": lens.method,
        "sites": [str(each) for each in lens.sites],
        "checkpoint": {"name": lens.checkpoint, "fingerprint": lens.fingerprint},
    }
    tell(told, lambda made: typer.echo(made["file"]), as_json=as_json)


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What the text begins with.")],
    edits: Edits,
    checkpoint: Checkpoint = None,
    overrides: OpenedAs = None,
    any_checkpoint: AnyCheckpoint = False,
    positions: AtPositions = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Most tokens of each text.")
    ] = 40,
    beams: Annotated[int, typer.Option("--beams", min=1, metavar="N", help="Of a beam search.")] = 1,
    sample: Annotated[
        int | None, typer.Option("--sample", min=0, metavar="SEED", help="Draw tokens, from this seed.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="With --sample: 1 unless told otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a language model writes, unedited and edited, side by side."""
    from flows.applied import Applied
    from flows.texts import show_texts
    from neuronlens.interventions.continuation import Decoding, side_by_side

    how = Decoding(max_new_tokens, beams, sample, _temperature(temperature, sample))
    applied = Applied.open(
        edits, checkpoint, overrides=overrides or [], any_checkpoint=any_checkpoint, positions=_positions(positions)
    )
    found = side_by_side(applied.checkpoint, applied.edits, prompts, how)
    tell(found, lambda made: show_texts(made, applied.lenses), as_json=as_json)


def harness(
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAME,...", help="Of lm-evaluation-harness; patterns and groups, too.")
    ],
    edits: Edits,
    checkpoint: Checkpoint = None,
    overrides: OpenedAs = None,
    any_checkpoint: AnyCheckpoint = False,
    positions: AtPositions = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="First documents of each task; all of them else.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", metavar="FOLDER", help="Further tasks, in YAML.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Requests a call.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Run tasks of lm-evaluation-harness on the unedited and the edited model."""
    from flows.applied import Applied
    from flows.console import show_tasks
    from neuronlens.evaluation.harness import run_tasks

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    applied = Applied.open(
        edits, checkpoint, overrides=overrides or [], any_checkpoint=any_checkpoint, positions=_positions(positions)
    )
    found = run_tasks(
        applied.checkpoint, applied.edits, names, limit=limit, include_path=include_path, batch_size=batch_size
    )
    tell(found, show_tasks, as_json=as_json)


def _positions(name: str | None) -> Positions | None:
    from typing import get_args

    from neuronlens.values import Positions as Known

    if name is not None and name not in get_args(Known):
        raise ConfigError(f"unknown positions {name!r}", where="--positions", cure=did_you_mean(name, get_args(Known)))
    return cast("Positions | None", name)


def _temperature(given: float | None, sample: int | None) -> float:
    if given is None:
        return 1.0
    if sample is None:
        raise ConfigError("only what is drawn has a temperature", where="--temperature", cure="Add --sample SEED.")
    if not 0 < given < float("inf"):
        raise ConfigError("must be above 0", where="--temperature", cure="Leave out --sample for the likeliest text.")
    return given


VERBS: Mapping[str, Callable[..., object]] = {"export": export, "generate": generate, "harness": harness}
