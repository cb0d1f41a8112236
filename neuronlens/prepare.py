"""The stage `prepare`: everything that comes in, checked before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from neuronlens.artifact import write_table
from neuronlens.checkpoint import Checkpoint, open_checkpoint
from neuronlens.config import Config
from neuronlens.dataset import SPLITS, Dataset, open_dataset
from neuronlens.encoding import Labels, encode_questions, encoder_for, resolve_labels
from neuronlens.questions import read_questions
from neuronlens.sites import Site, expand_sites, layer_count, module_below_block, site_width, top_count
from neuronlens.text_files import read_documents


@dataclass(frozen=True)
class Inputs:
    """What came in, found fit to be audited."""

    checkpoint: Checkpoint
    dataset: Dataset
    labels: Labels
    sites: tuple[Site, ...]


def check(config: Config) -> Inputs:
    """Refuse at once, before any weight is loaded, what a later stage would trip over.

    Raises:
        UserError: the data, the checkpoint, or the two together cannot be audited.
    """
    checkpoint = open_checkpoint(config.checkpoint)
    sites = expand_sites(config.extract.sites, layer_count(checkpoint.config))
    for site in sites:
        module_below_block(checkpoint.config, site)
    asked = config.interventions
    tops = [*asked.top, *(asked.tuned.top if asked.tuned else ())]
    for site, top in product(sites, tops):
        top_count(site_width(checkpoint.config, site), top)
    dataset = open_dataset(config.dataset, config.seed)
    scoring = config.evaluate.scoring
    labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, scoring)
    encoder_for(checkpoint, config.dataset, labels.room(scoring)).encode(dataset.text[:1])
    if config.evaluate.auxiliary is not None:
        read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
    if config.evaluate.questions is not None:
        questions = read_questions(config.evaluate.questions)
        if checkpoint.kind == "language_model":
            encode_questions(checkpoint, questions)
    return Inputs(checkpoint, dataset, labels, sites)


def prepare(config: Config, _inputs: Mapping[str, Path], out: Path) -> dict[str, object]:
    """The stage: dataset.parquet, and in the manifest what it was checked against.

    Args:
        _inputs: nothing, since no stage comes before.
        out: an empty folder.

    Returns:
        Facts for the manifest.
    """
    found = check(config)
    checkpoint, dataset, labels = found.checkpoint, found.dataset, found.labels
    write_table(out / "dataset.parquet", dataset.to_table())
    count = Counter(zip(dataset.concept, dataset.split, strict=True))
    return {
        "checkpoint": {
            "name": checkpoint.name,
            "fingerprint": checkpoint.fingerprint,
            "kind": checkpoint.kind,
            "model_type": checkpoint.config.model_type,
        },
        "dataset": {"name": dataset.name, "notes": list(dataset.notes)},
        "rows": {name: {split: count[name, split] for split in SPLITS} for name in dataset.concepts},
        "labels": {
            name: {"id": index, "text": text}
            for name, index, text in zip(labels.concepts, labels.ids, labels.texts, strict=True)
        },
        "sites": [str(site) for site in found.sites],
        "seed": config.seed,
    }
