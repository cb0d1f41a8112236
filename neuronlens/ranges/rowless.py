"""What a fit can make where the activations of single rows were not kept, and what it has to leave out.

Whatever looks at several neurons of a row at once needs the rows themselves: a probe, the erasure, the gate on agreement. Discriminative
ranges and the saliency `separation` count between quantiles that the concept, the complement and ordinary tokens share, and random ranges
have to hold as many rows as those they are held against; from bins they would only nearly be what they are called, so they are left out,
too.
"""

from __future__ import annotations

from typing import TypeVar

from neuronlens.config import Config, TunedParams
from neuronlens.errors import ConfigError
from neuronlens.streaming.histogram import FINE_BINS

SALIENCIES, RANGES, GATES, CONTROLS = (
    ("probe", "separation"),
    ("discriminative",),
    ("agreement",),
    ("random_ranges", "leace"),
)
T = TypeVar("T")


def without_rows(config: Config) -> tuple[Config, list[str]]:
    """The configuration without what needs rows, and sentences that say what that is.

    Raises:
        ConfigError: nothing would be left of what neurons are ranked by, or of the kinds of range.
    """
    asked = config.interventions
    saliency, ranges = _without(config.fit.saliency, SALIENCIES), _without(asked.ranges, RANGES)
    for where, left, given in (
        ("fit.saliency", saliency, config.fit.saliency),
        ("interventions.ranges", ranges, asked.ranges),
    ):
        if not left:
            raise ConfigError(
                f"{', '.join(given)} needs the activations of single rows, which are not kept",
                where=where,
                cure="Ask for others, or --set extract.keep_rows=true.",
            )
    controls = _without(asked.controls, CONTROLS)
    tuned = None if asked.tuned is None else _tuned(asked.tuned)
    gone: list[str] = [
        name
        for given, left in ((config.fit.saliency, saliency), (asked.ranges, ranges), (asked.controls, controls))
        for name in given
        if name not in left
    ]
    if tuned != asked.tuned:
        gone.append("the tuned method" if tuned is None else "some candidates of the tuned method")
    notes = [
        f"quantiles, auroc and doses are estimated from histograms of up to {FINE_BINS} bins, and of the tests of normality there is "
        "Jarque-Bera's alone",
        *([f"left out, as activations of single rows were not kept: {', '.join(gone)}"] if gone else []),
    ]
    interventions = asked.model_copy(update={"ranges": ranges, "controls": controls, "tuned": tuned})
    fit = config.fit.model_copy(update={"saliency": saliency})
    return config.model_copy(update={"fit": fit, "interventions": interventions}), notes


def _tuned(asked: TunedParams) -> TunedParams | None:
    """The candidates that need no rows; None where there are none."""
    left = {
        "saliency": _without(asked.saliency, SALIENCIES),
        "ranges": _without(asked.ranges, RANGES),
        "gate": _without(asked.gate, GATES),
    }
    return asked.model_copy(update=left) if all(left.values()) else None


def _without(values: tuple[T, ...], needing: tuple[str, ...]) -> tuple[T, ...]:
    """Those that need no rows."""
    return tuple(value for value in values if value not in needing)
