"""A configuration in the words of the command line."""

from __future__ import annotations

import json

from neuronlens.config import Config


def as_options(config: Config) -> list[str]:
    """The command line of a configuration."""
    options = ["audit", "--checkpoint", config.checkpoint.path, "--dataset", config.dataset.path]
    for key in ("fit.rows", "fit.saliency", "interventions.tau", "evaluate.auxiliary", "evaluate.bootstrap"):
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        options += ["--set", f"{key}={json.dumps(value)}"]
    return options
