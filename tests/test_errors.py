"""Errors: one line for a user's mistake, with the exit code that goes with it."""

from __future__ import annotations

import pytest

from neuronlens import errors
from neuronlens.errors import NeuronLensError, UserError, did_you_mean


def test_a_users_mistake_is_one_line_of_place_problem_and_cure():
    error = UserError("has no\n column 'x'", where="rows.csv", cure="Name the\tcolumn.")
    assert str(error) == "rows.csv: has no column 'x'. Name the column."
    assert str(UserError("is wrong")) == "is wrong"
    assert (error.what, error.where, error.cure) == ("has no\n column 'x'", "rows.csv", "Name the\tcolumn.")


def test_exit_codes():
    """2: usage, configuration, data. 3: the run broke."""
    every = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, NeuronLensError)]
    assert len(every) > 6
    for kind in every:
        assert kind.exit_code == (2 if issubclass(kind, UserError) else 3), kind


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("taus", "Did you mean 'tau'?"),
        ("TOP", "Did you mean 'top'?"),
        ("zzzzz", "Known: tau, top."),
        ("", "Known: tau, top."),
    ],
)
def test_a_misspelt_name_gets_the_closest_or_all(word, cure):
    assert did_you_mean(word, ["tau", "top"]) == cure


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("remote s3://me:pass@host/b: lacks", "remote s3://***@host/b: lacks"),
        ("https://tok@host/a?sig=abc&x=1", "https://***@host/a?sig=***&x=1"),
        ("https://host/?access_token=t and more", "https://host/?access_token=*** and more"),
        ("ssh://me@host/folder", "ssh://me@host/folder"),
        ("http:/me:pass@host/b, https:/tok@host", "http:/***@host/b, https:/***@host"),
        ("sqlite:////a/b.db, a@b:c", "sqlite:////a/b.db, a@b:c"),
    ],
)
def test_addresses_are_shown_without_what_opens_them(text, shown):
    assert errors.redacted(text) == shown
    assert shown in str(UserError("is wrong", where=text))


@pytest.mark.parametrize("kind", [UserError, errors.ArtifactError, errors.NeuronLensError])
def test_what_is_quoted_does_nothing_to_a_terminal(kind):
    told = str(kind("holds \x1b[31mred, \u202e and\x00\n\ud800"))
    assert told == r"holds \x1b[31mred, \u202e and\x00 \ud800"


def test_what_is_quoted_at_length_is_cut_and_the_cure_is_kept():
    told = str(UserError("x" * 10_000, where="y" * 10_000, cure="Do something else."))
    assert len(told) < 2_100
    assert told.endswith("x…. Do something else.")
