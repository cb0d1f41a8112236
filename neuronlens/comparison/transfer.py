"""Ranges of one checkpoint applied to another: do they still carry the concept after more training, from another seed, in another model of
equal width?
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from neuronlens import methods
from neuronlens.artifact import finite, fresh_folder, write_json, write_manifest, write_table
from neuronlens.comparison import CHANGES, TRANSFER
from neuronlens.comparison.changes import corrected, edit_changes, text_changes
from neuronlens.comparison.document import told
from neuronlens.comparison.stored import StoredAudit, check_comparable
from neuronlens.config import Config
from neuronlens.errors import UserError
from neuronlens.evaluation.sweep import evaluate


def transfer(a: Path, b: Path, config: Config, out: Path) -> dict[str, Any]:
    """Apply the ranges of the audit in `a` to the checkpoint of the audit in `b`, and hold them against that audit's own ranges.

    evaluate/ (what the stage `evaluate` writes), changes.parquet (the transferred ranges minus the checkpoint's own, paired on rows),
    transfer.json. Where there are candidates of the tuned method, the second checkpoint's validation rows choose among the transferred.

    Args:
        config: of the audit in `b`.

    Returns:
        transfer.json.

    Raises:
        UserError: they are not finished audits of the same rows, or their sites differ in width.
    """
    first, second = StoredAudit.open(a), StoredAudit.open(b)
    check_comparable(first, second)
    widths = [audit.facts["extract"]["widths"] for audit in (first, second)]
    for site, width in widths[0].items():
        if widths[1].get(site) != width:
            found = f"{widths[1][site]:,} neurons" if site in widths[1] else "no such site"
            raise UserError(
                f"ranges of {site} with {width:,} neurons cannot be applied where there are {found}",
                where=f"{first.name} and {second.name}",
                cure="Transfer takes equal widths; audit both at sites that have them.",
            )
    folders = {"prepare": second.folders["prepare"], "fit": first.folders["fit"]}
    with fresh_folder(out) as folder:
        moved = folder / "evaluate"
        moved.mkdir()
        facts = evaluate(config, folders, moved)
        fingerprint = second.facts["prepare"]["checkpoint"]["fingerprint"]
        inputs = {"prepare": second.hashes["prepare"], "fit": first.hashes["fit"], "checkpoint": fingerprint}
        params = {
            "interventions": config.interventions.model_dump(mode="json"),
            "evaluate": config.evaluate.model_dump(mode="json"),
        }
        write_manifest(moved, stage="evaluate", method=methods.EVALUATE, inputs=inputs, params=params, facts=facts)
        lent = replace(
            second,
            name=f"{first.name} on {second.name}",
            folders={**second.folders, "fit": first.folders["fit"], "evaluate": moved},
        )
        changes = []
        for site in second.sites:
            changes += edit_changes(second, lent, site, config.seed)
            changes += [change for change in text_changes(second, lent, site, config.seed) if change.site]
        changes = corrected(changes)
        document = finite(
            {
                "schema_version": 1,
                "audits": [told(audit) for audit in (first, second)],
                "sites": [str(site) for site in second.sites],
                "changes": [asdict(change) for change in changes if change.role == "chosen"],
                "decided": [asdict(change) for change in changes if change.direction],
                "seed": config.seed,
            }
        )
        write_json(folder / TRANSFER, document)
        write_table(folder / CHANGES, pa.Table.from_pylist([asdict(change) for change in changes]))
        write_manifest(
            folder,
            stage="transfer",
            method=methods.COMPARE,
            inputs=inputs | {f"own {name}": digest for name, digest in second.hashes.items()},
            params=params,
            facts={"sites": document["sites"]},
        )
    result: dict[str, Any] = document
    return result
