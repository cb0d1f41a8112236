"""A method of a finished audit as a lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from neuronlens.artifact import content_hash, is_intact, read_table
from neuronlens.config import Config
from neuronlens.errors import ArtifactError, UserError, did_you_mean
from neuronlens.evaluation.methods import Method, read_methods
from neuronlens.interventions.lens import Lens
from neuronlens.report.finished import audit_of
from neuronlens.sites import Site

_JOINT = "joint"
_MADE_OF = ("prepare", "extract", "fit", "evaluate")
_PARAMS = ("setting", "saliency", "top", "range", "base", "tau", "threshold", "gate")


def export_lens(audit: Path | str, concept: str, method: str = "tuned", site: str | None = None) -> Lens:
    """The edit of a method for a concept.

    Args:
        audit: folder of an audit.
        method: what validation rows chose, `tuned`, `paper`, `whole` or a control of the tuned choice; `joint/2` for the best 2 sites
            together, `joint` where one number of sites was asked for; or a setting of results.parquet.
        site: needed where the audit has several, but for joint edits.

    Raises:
        UserError: there is no such audit, concept, method or site.
        ArtifactError: the audit is damaged.
    """
    folder, document = Path(audit), audit_of(audit)
    for stage in ("fit", "evaluate"):
        if not is_intact(folder / stage):
            raise ArtifactError(
                f"{folder / stage}: its files are not what they were when they were written; run the audit again"
            )
    config = Config.model_validate(document["params"])
    known = read_methods(folder / "fit", config)
    concepts = sorted({each.ranges.concept for each in known})
    if concept not in concepts:
        raise UserError(f"unknown concept {concept!r}", where=str(folder), cure=did_you_mean(concept, concepts))
    own = [each for each in known if each.ranges.concept == concept]
    joint = {f"{_JOINT}/{row['count']}": row for row in _rows(folder, "joint", concept)}
    if len(joint) == 1:
        joint[_JOINT] = next(iter(joint.values()))
    if method in joint:
        if site is not None:
            raise UserError("a joint edit has its own sites", where="--site", cure="Leave it away.")
        places = zip(joint[method]["sites"], joint[method]["settings"], strict=True)
        found = [_method(own, *place) for place in places]
    else:
        found = [_one(folder, own, concept, method, site, joint)]
    methods = sorted(found, key=lambda each: each.ranges.site)
    checkpoint, widths = document["checkpoint"], {row["site"]: row["neurons"] for row in document["sites"]}
    return Lens(
        tuple(each.edit(config.extract.pooling) for each in methods),
        tuple(widths[str(each.ranges.site)] for each in methods),
        concept,
        method,
        tuple({name: each.identity[name] for name in _PARAMS} for each in methods),
        checkpoint["name"],
        checkpoint["fingerprint"],
        checkpoint["model_type"],
        {stage: content_hash(folder / stage) for stage in _MADE_OF},
    )


def _one(
    folder: Path, own: Sequence[Method], concept: str, method: str, site: str | None, joint: Mapping[str, Any]
) -> Method:
    """The method of one site."""
    chosen = _rows(folder, "chosen", concept)
    settings = {row["site"]: row["setting"] for row in chosen if row["method"] == method}
    settings |= {str(each.ranges.site): each.name for each in own if each.name == method and method not in settings}
    if not settings:
        short = [*dict.fromkeys(row["method"] for row in chosen), *joint]
        close = get_close_matches(method, [*short, *(each.name for each in own)], n=1)
        listed = f"Known: {', '.join([*short, 'and the settings of results.parquet'])}."
        raise UserError(
            f"no method {method!r} for {concept!r}",
            where=str(folder),
            cure=f"Did you mean {close[0]!r}?" if close else listed,
        )
    if site is None:
        if len(settings) > 1:
            together = f", or --method {next(iter(joint))}" if joint else ""
            raise UserError(
                f"{method} was measured at {len(settings)} sites",
                where=str(folder),
                cure=f"Name one with --site: {', '.join(sorted(settings, key=Site.parse))}{together}.",
            )
        site = next(iter(settings))
    name = str(Site.parse(site))
    if name not in settings:
        raise UserError(f"no method {method!r} at {name}", where=str(folder), cure=did_you_mean(name, settings))
    return _method(own, name, settings[name])


def _method(own: Sequence[Method], site: str, setting: str) -> Method:
    return next(each for each in own if (str(each.ranges.site), each.name) == (site, setting))


def _rows(folder: Path, table: str, concept: str) -> list[dict[str, Any]]:
    """The rows of a concept in a table of the stage evaluate; none where it has not written it."""
    file = folder / "evaluate" / f"{table}.parquet"
    if not file.is_file():
        return []
    return [row for row in read_table(file).to_pylist() if row["concept"] == concept]
