"""The documentation names what the tables hold."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import get_args

import pytest
import scipy.stats

from neuronlens.config import Config
from neuronlens.evaluation.contrasts import EFFECTS
from neuronlens.evaluation.joint import COLUMNS as JOINT
from neuronlens.evaluation.measure import MEASURED
from neuronlens.evaluation.questions import COLUMNS as QUESTIONS
from neuronlens.evaluation.sweep import IDENTITY, PERPLEXITY
from neuronlens.interventions.lens_file import Header, Part
from neuronlens.interventions.operators import OPERATORS
from neuronlens.report.findings import DECIDABLE_CONCEPTS
from neuronlens.values import WIDTHS, Saliency

DOCS = Path(__file__).resolve().parent.parent / "docs"
NAMED = {
    name: set(re.findall(r"`([^`\n]+)`", (DOCS / name).read_text(encoding="utf-8")))
    for name in ("method.md", "artifacts.md", "editing.md")
}


def told(page: str, column: str) -> bool:
    """Whether a column stands on a page, by its own name or by the patterns that the page explains."""
    plain = re.sub(r"_(low|high)$", "", column)
    grouped = re.sub(r"(^|_)(target|complement)_", r"\1GROUP_", plain)
    return bool({column, plain, grouped} & NAMED[page])


@pytest.mark.parametrize("column", dict.fromkeys([*MEASURED, *PERPLEXITY, *QUESTIONS, *JOINT[JOINT.index("gain") :]]))
def test_every_measured_column_is_explained(column):
    assert told("method.md", column)
    assert told("artifacts.md", column)


@pytest.mark.parametrize("column", [*IDENTITY, *EFFECTS, *JOINT[: JOINT.index("n_target")]])
def test_every_column_that_says_what_was_done_is_listed(column):
    assert told("artifacts.md", column)


def test_everything_in_a_lens_file_is_explained():
    ranges, erasure = (
        Part(
            kind=kind,
            site="resid_post.0",
            width=1,
            operator=operator,
            positions="all",
            pooling="auto",
            gated=True,
            params={},
        )
        for kind, operator in (("ranges", "zero"), ("erasure", None))
    )
    tensors = {f"I.{name}" for part in (ranges, erasure) for name in part.names}
    assert {*Header.model_fields, *Part.model_fields, *tensors} <= NAMED["editing.md"]


def test_every_operator_saliency_and_kind_of_range_is_explained():
    tuned = Config().interventions.tuned
    assert tuned is not None
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    for name in (*OPERATORS, *get_args(Saliency), *WIDTHS, *tuned.gate, *Config().interventions.controls):
        assert re.search(rf"\b{name}\b", page), name


def test_what_the_gotchas_count_is_so():
    page = (DOCS / "gotchas.md").read_text(encoding="utf-8")

    def covered(n):
        """Share of new rows of a normal neuron within 2 standard deviations (ddof 0) of the mean, both of n rows."""
        return 2 * scipy.stats.t.cdf(2 * math.sqrt((n - 1) / (n + 1)), n - 1) - 1

    assert f"of 10 rows covers {covered(10):.2f} of a normal neuron's new rows in place of {covered(10**7):.3f}" in page
    assert (
        f"A sign-flip test of {DECIDABLE_CONCEPTS - 1} concepts cannot fall below {2 / 2 ** (DECIDABLE_CONCEPTS - 1)}"
        in page
    )
    assert f"below {Config().fit.minimum_rows} rows (`fit.minimum_rows`)" in page
    assert f"cut to `dataset.max_tokens` ({Config().dataset.max_tokens})" in page
