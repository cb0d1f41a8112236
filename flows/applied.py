"""Lenses that a verb applies, and the checkpoint that it applies them to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.engine import audits_of
from neuronlens.artifact import read_manifest
from neuronlens.checkpoint import Checkpoint, identify_checkpoint, open_checkpoint
from neuronlens.config import CheckpointParams
from neuronlens.errors import ArtifactError, ConfigError, LensError, UserError
from neuronlens.interventions.kinds import AnyEdit
from neuronlens.interventions.lens import Lens
from neuronlens.params import load_config, parse_override
from neuronlens.values import Positions
from tasks.audits import checkpoint_of, open_existing
from tasks.versioning import Workspace


@dataclass(frozen=True)
class Applied:
    """Lenses and the checkpoint whose model they edit.

    Attributes:
        edits: of the lenses, in the order in which they were named.
    """

    lenses: tuple[Lens, ...]
    checkpoint: Checkpoint
    edits: tuple[AnyEdit, ...]

    @classmethod
    def open(
        cls,
        files: Sequence[Path],
        checkpoint: str | None,
        *,
        overrides: Sequence[str] = (),
        any_checkpoint: bool,
        positions: Positions | None = None,
    ) -> Applied:
        """Read them.

        Args:
            checkpoint: where it lies; where an audit of the workspace knows it to lie unless told otherwise.
            overrides: `checkpoint.key=value`, how it is opened.
            any_checkpoint: let it be another one than the lenses are of.
            positions: which tokens are edited; those that each lens says unless told otherwise.

        Raises:
            UserError: a lens is none, or of another checkpoint, or the checkpoint cannot be found.
        """
        lenses = tuple(Lens.load(file) for file in files)
        known = _place(lenses[0]) if checkpoint is None else CheckpointParams(path=checkpoint)
        params = _opened_as(known, overrides)
        latent = next((site for lens in lenses for site in lens.sites if site.is_latent), None)
        if latent is not None and params.sae is None:
            raise LensError(
                f"the lens edits latents of a sparse autoencoder ({latent})",
                cure="Name its folder: --set checkpoint.sae=FOLDER.",
            )
        opened = open_checkpoint(params)
        for lens in () if any_checkpoint else lenses:
            lens.check_checkpoint(opened.fingerprint)  # before weights are loaded for nothing
        if positions is not None:
            lenses = tuple(lens.at(positions) for lens in lenses)
        edits = tuple(lens.item_for(opened.model, opened, any_checkpoint=any_checkpoint) for lens in lenses)
        return cls(lenses, opened, edits)


def _opened_as(known: CheckpointParams, overrides: Sequence[str]) -> CheckpointParams:
    """A checkpoint, with single parameters told.

    Raises:
        ConfigError: one is not of the checkpoint, or not allowed.
    """
    for override in overrides:
        keys, _ = parse_override(override)
        if keys[0] != "checkpoint":
            raise ConfigError(
                "has no effect here",
                where=f"--set {override}",
                cure="Only keys of checkpoint have one, such as checkpoint.sae.",
            )
    return load_config(overrides=[f"checkpoint={known.model_dump_json()}", *overrides]).checkpoint


def _place(lens: Lens) -> CheckpointParams:
    """Where the checkpoint of a lens lies, by the audits of the workspace around the current folder."""
    workspace = Workspace.find(Path.cwd())
    for folder in [] if workspace is None else audits_of(workspace):
        try:
            known = read_manifest(folder / "prepare")["facts"]["checkpoint"]["fingerprint"]
            if known != lens.fingerprint:
                continue
            params = checkpoint_of(open_existing(folder))
            if identify_checkpoint(params)[1] == lens.fingerprint:
                return params
        except (ArtifactError, UserError):  # an audit that is not whole, or whose checkpoint is gone
            continue
    raise LensError(
        f"no audit here knows where the checkpoint of the lens lies ({lens.checkpoint}, {lens.fingerprint[:8]})",
        cure="Name it with --checkpoint.",
    )
