"""A lens: an edit that travels. It knows the checkpoint it is of, what it takes away, and how it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neuronlens.artifact import library_versions
from neuronlens.checkpoint import Checkpoint, identify_checkpoint
from neuronlens.config import CheckpointParams
from neuronlens.errors import LensError
from neuronlens.interventions.edit import Dose, edit
from neuronlens.interventions.kinds import AnyEdit, Edit, Intervention, Joint, parts_of
from neuronlens.interventions.lens_file import Header, Part, SiteEdit, Value, pack, unpack
from neuronlens.ranges.selection import Ranges
from neuronlens.sites import Site, resolve, site_width
from neuronlens.values import Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Lens:
    """An edit with where it comes from.

    Attributes:
        parts: what is done to the model, one edit a site, in the order in which a forward call meets them.
        widths: neurons that each of the sites has.
        concept: what it takes away.
        method: how that was found, by the name that an audit gives it; empty where no audit does.
        params: of the method, one a site: what results.parquet says of it.
        checkpoint: name of the checkpoint that it is of.
        fingerprint: that checkpoint's identity, sha256 (hex).
        model_type: its family.
        audit: stage -> hash of what it wrote; empty where no audit has found it.
        version: of the NeuronLens that made it.
    """

    parts: tuple[SiteEdit, ...]
    widths: tuple[int, ...]
    concept: str
    method: str
    params: tuple[Mapping[str, Value], ...]
    checkpoint: str
    fingerprint: str
    model_type: str
    audit: Mapping[str, str] = field(default_factory=dict)
    version: str = field(default_factory=lambda: library_versions()["neuronlens"])

    @classmethod
    def of(
        cls, item: Ranges | AnyEdit, checkpoint: Checkpoint, *, concept: str | None = None, method: str = ""
    ) -> Lens:
        """The lens of an edit.

        Args:
            item: or fitted ranges, which are set to zero at all positions.
            checkpoint: the one whose activations it was fitted on.
            concept: what it takes away; that of the ranges unless told otherwise.

        Raises:
            LensError: no file can hold an edit of this kind.
        """
        if isinstance(item, Ranges):
            concept, item = item.concept if concept is None else concept, Intervention.of(item)
        parts = tuple(_writable(part) for part in parts_of(item))
        return cls(
            parts,
            tuple(site_width(checkpoint.config, part.site) for part in parts),
            concept or "",
            method,
            ({},) * len(parts),
            checkpoint.name,
            checkpoint.fingerprint,
            checkpoint.config.model_type,
        )

    @classmethod
    def load(cls, path: str | Path) -> Lens:
        """The lens in a file. No file can do more than be refused: nothing in it is run, and all of it is checked.

        Raises:
            LensError: it is no lens, damaged, or of a newer NeuronLens.
        """
        header, tensors = unpack(Path(path))
        return cls(
            tuple(part.edit(own) for part, own in zip(header.parts, tensors, strict=True)),
            tuple(part.width for part in header.parts),
            header.concept,
            header.method,
            tuple(part.params for part in header.parts),
            header.checkpoint,
            header.fingerprint,
            header.model_type,
            header.audit,
            header.neuronlens,
        )

    def save(self, path: str | Path) -> None:
        """Write it into a file. Equal lenses give equal bytes.

        Raises:
            LensError: there is another file already that is no lens, or nothing would load what is written.
        """
        parts = zip(self.parts, self.widths, self.params, strict=True)
        described = [Part.of(part, width, params) for part, width, params in parts]
        header = Header(
            concept=self.concept,
            method=self.method,
            checkpoint=self.checkpoint,
            fingerprint=self.fingerprint,
            model_type=self.model_type,
            parts=tuple(part for part, _ in described),
            audit=dict(self.audit),
            neuronlens=self.version,
        )
        pack(Path(path), header, [tensors for _, tensors in described])

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it acts."""
        return tuple(part.site for part in self.parts)

    @property
    def item(self) -> AnyEdit:
        """All of it, as one edit."""
        return self.parts[0] if len(self.parts) == 1 else Joint(self.parts)

    def at(self, positions: Positions) -> Lens:
        """The same edit of other tokens."""
        return replace(self, parts=tuple(replace(part, positions=positions) for part in self.parts))

    def item_for(
        self,
        model: PreTrainedModel,
        checkpoint: Checkpoint | str | Path | None = None,
        *,
        any_checkpoint: bool = False,
    ) -> AnyEdit:
        """The edit, once it is known to fit a model.

        Args:
            model: of `load_checkpoint`, or one that transformers has loaded from a local folder; it is asked where.
            checkpoint: the one that the model was loaded from, where it cannot say so itself.
            any_checkpoint: let it be another one. Sites and widths have to fit even so.

        Raises:
            LensError: the model is of another checkpoint, or nobody says of which; or its sites are of other widths.
            SiteError: a site resolves to nothing in it.
        """
        for site, width in zip(self.sites, self.widths, strict=True):
            resolve(model, site)
            found = site_width(model.config, site)
            if found != width:
                raise LensError(
                    f"the lens is of {width:,} neurons at {site}, where the model has {found:,}",
                    cure="Use it on a model of the same shape.",
                )
        if not any_checkpoint:
            self.check_checkpoint(_fingerprint(model, checkpoint))
        return self.item

    @contextlib.contextmanager
    def edit(
        self,
        model: PreTrainedModel | Checkpoint,
        checkpoint: Checkpoint | str | Path | None = None,
        *,
        any_checkpoint: bool = False,
    ) -> Iterator[Dose]:
        """Edit a model during the forward and generate calls inside the block (see `neuronlens.edit`, which takes several lenses).

        Args:
            model: or the checkpoint itself.
            checkpoint, any_checkpoint: as of `item_for`, with what it raises.

        Yields:
            The dose of the latest forward call.
        """
        loaded, whose = (model.model, model) if isinstance(model, Checkpoint) else (model, checkpoint)
        with edit(loaded, self.item_for(loaded, whose, any_checkpoint=any_checkpoint)) as (dose,):
            yield dose

    def check_checkpoint(self, found: str) -> None:
        """Refuse another checkpoint.

        Args:
            found: its fingerprint.

        Raises:
            LensError: it is another one.
        """
        if found != self.fingerprint:
            raise LensError(
                f"the lens is of another checkpoint ({self.checkpoint}, {self.fingerprint[:8]}) than the model ({found[:8]})",
                cure="Use it on that one, or say that any checkpoint will do: any_checkpoint=True, --any-checkpoint.",
            )


def _writable(part: Edit) -> SiteEdit:
    if not isinstance(part, SiteEdit):
        raise LensError(f"an edit of kind {type(part).__name__} cannot be written into a lens")
    return part


def _fingerprint(model: PreTrainedModel, checkpoint: Checkpoint | str | Path | None) -> str:
    """Identity of the checkpoint that a model was loaded from."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.fingerprint
    place = getattr(model, "name_or_path", "") if checkpoint is None else str(checkpoint)
    if not place or (checkpoint is None and not Path(place).is_dir()):
        raise LensError(
            "the model does not say which checkpoint it was loaded from",
            cure="Pass what load_checkpoint returns, name the checkpoint, or say any_checkpoint=True.",
        )
    return identify_checkpoint(CheckpointParams(path=place))[1]
