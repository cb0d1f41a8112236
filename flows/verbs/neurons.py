"""Verbs on single neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.printing import AsJson, print_json
from flows.verbs.options import Audit, Checkpoint
from neuronlens.errors import CheckpointError


def neuron(
    audit: Audit,
    place: Annotated[str, typer.Argument(metavar="SITE:NEURON", help="Such as resid_post.3:117.")],
    concept: Annotated[
        str | None, typer.Option("--concept", metavar="NAME", help="Tell of this concept alone, and mask for it.")
    ] = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="Measure what masking this neuron alone does, its range and whole.")
    ] = False,
    checkpoint: Checkpoint = None,
    auxiliary: Annotated[
        Path | None,
        typer.Option(
            "--auxiliary", metavar="FILE", help="The text that the audit has measured perplexity on, if moved."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show all that an audit knows of a neuron."""
    from flows.cards import show_card
    from neuronlens.report.neurons.card import NeuronCard
    from neuronlens.report.neurons.place import parse_place

    site, number = parse_place(place)
    card = NeuronCard.read(audit, site, number)
    if concept is not None:
        card.concept(concept)
    told = concept or card.most_selective
    masked = _masked(audit, card.site, card.neuron, told, checkpoint, auxiliary) if mask else None
    if as_json:
        print_json({**asdict(card), "masked": masked})
    else:
        show_card(card, masked, concept)


def _masked(
    audit: Path, site: str, neuron: int, concept: str, path: str | None, auxiliary: Path | None
) -> list[dict[str, Any]]:
    from neuronlens.checkpoint import open_checkpoint
    from neuronlens.report.finished import audit_of, measured_on
    from neuronlens.report.neurons.masked import mask_neuron
    from tasks.audits import auxiliary_of, checkpoint_of, open_existing

    known = audit_of(audit)["checkpoint"]
    made = open_existing(audit)
    params = checkpoint_of(made)
    if path is not None:
        params = params.model_copy(update={"path": path, "revision": None})
    try:
        opened = open_checkpoint(params)
    except CheckpointError as error:
        cure = f"Name where {known['name']} ({known['fingerprint'][:8]}) lies with --checkpoint."
        raise CheckpointError(error.what, where=error.where, cure=cure) from None
    auxiliary = auxiliary or auxiliary_of(made)
    masked = mask_neuron(audit, site, neuron, concept, opened, auxiliary)
    if auxiliary is None and measured_on(audit) is not None:
        typer.echo(
            "no perplexity: the text it was measured on is not where the audit's parameters say; --auxiliary names it",
            err=True,
        )
    return masked


VERBS: Mapping[str, Callable[..., object]] = {"neuron": neuron}
