"""Verbs on edits: taken out of an audit, and applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from flows.printing import AsJson, tell
from flows.verbs.options import Audit


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


VERBS: Mapping[str, Callable[..., object]] = {"export": export}
