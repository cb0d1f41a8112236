"""Concepts are called what the data call them, and MLflow takes few names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from tasks.tracking.store import metric_names

NAMES = st.text(st.sampled_from("./ :-_aZ9ü<\n\\\0\N{SNOWMAN}"), max_size=8) | st.text(max_size=300)


@given(st.lists(NAMES, unique=True, max_size=8))
def test_any_number_is_logged_under_a_name_that_mlflow_takes(names):
    found = metric_names({f"base/accuracy/{name}": float(i) for i, name in enumerate(names)} | dict.fromkeys(names, -1))
    for name in found:
        _validate_metric_name(name)
        assert len(name) <= 250
    assert sorted(found.values()) == sorted([*map(float, range(len(names))), *(-1.0 for _ in names)])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base/accuracy/../soup", "base/accuracy/_/soup"),
        ("base/accuracy/süß/Dessert", "base/accuracy/süß/Dessert"),
        ("base/accuracy/Grill & BBQ", "base/accuracy/Grill _ BBQ"),
        ("a//b", "a/_/b"),
        ("a/./b", "a/_/b"),
        ("base/accuracy/..", "base/accuracy/_"),
        ("base/accuracy/", "base/accuracy/_"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_a_name_stays_readable(name, plain):
    assert metric_names({name: 1.0}) == {plain: 1.0}


def test_names_that_become_one_are_counted():
    assert metric_names({"a<": 1.0, "a>": 2.0, "a_": 3.0}) == {"a_": 1.0, "a_ 2": 2.0, "a_ 3": 3.0}
