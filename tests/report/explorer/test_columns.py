"""What a page carries of a column says the same 3 digits as the column itself, in two bytes, always the same ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.report.explorer.columns import decimals, fitting, packed
from tests.report.unpacked import Reader, values_of

# the largest floats would become infinite when they are rounded
NUMBERS = st.floats(-1e308, 1e308) | st.floats(width=32, allow_nan=False)
# the halves of the third digit, where rounding is decided, and what lies just beside them
TIES = st.builds(
    lambda whole, exponent, beside: float(np.nextafter(float(f"{whole}5e{exponent}"), math.inf * beside)),
    st.integers(100, 999),
    st.integers(-300, 300),
    st.sampled_from((-1, 1)),
) | st.builds(lambda whole, exponent: float(f"{whole}5e{exponent}"), st.integers(100, 999), st.integers(-300, 300))


@given(NUMBERS | TIES)
def test_a_number_of_any_magnitude_shows_the_3_digits_that_it_has(value: float) -> None:
    (found,) = values_of(*decimals([value])).tolist()
    assert f"{found:.2e}" == f"{value + 0:.2e}".replace("-0.00e", "0.00e")
    if math.isfinite(value) and abs(value) > 1e-300:  # below, floats themselves have fewer digits
        assert abs(found - value) <= 0.005 * abs(value) * (1 + 1e-9)


@given(st.lists(NUMBERS | TIES, min_size=1, max_size=20))
def test_numbers_beside_larger_ones_do_so_for_34_decades(values: list[float]) -> None:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    for value, found in zip(values, values_of(*decimals(values)).tolist(), strict=True):
        if abs(value) >= largest * 1e-34:
            assert f"{found:.2e}" == f"{value:.2e}".replace("-0.00e", "0.00e")
        else:
            assert found == 0 or f"{found:.2e}" == f"{value:.2e}"


def test_what_is_missing_stays_so() -> None:
    assert np.isnan(values_of(*decimals([math.nan, 1.0]))).tolist() == [True, False]
    assert np.isnan(values_of(*decimals([math.nan]))).all()
    assert decimals([])[1].tolist() == []


@given(st.lists(st.tuples(NUMBERS, st.integers(-(2**31), 2**31 - 1), st.floats(width=32)), max_size=30))
def test_columns_come_back_in_their_order(rows: list[tuple[float, int, float]]) -> None:
    values, whole, single = (np.array([row[place] for row in rows]) for place in range(3))
    columns = [*decimals(values), whole.astype(np.int32), single.astype(np.float32)]
    reader = Reader(packed(columns))
    np.testing.assert_array_equal(reader.take_decimals(len(rows)), values_of(*decimals(values)))
    for column in columns[2:]:
        np.testing.assert_array_equal(reader.take(column.dtype, len(rows)), column)
    assert not reader.content


def test_a_column_of_activations_takes_two_bytes_a_number() -> None:
    """184,000 rows of nine such columns must leave room for the rest of a page of 5 MB."""
    drawn = np.random.default_rng(0).normal(size=20_000) * 3
    assert len(packed(decimals(drawn))) < 2.1 * len(drawn)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 400))
def test_as_many_are_taken_as_fit(sizes: list[int], budget: int) -> None:
    found = fitting(len(sizes), lambda count: sum(sizes[:count]), budget)
    assert sum(sizes[:found]) <= budget
    left = budget - sum(sizes[:found])
    assert found == len(sizes) or sum(sizes[: found + 1]) > budget or left <= budget // 100


def test_few_sizes_are_looked_at() -> None:
    """Each takes as long as it takes to pack what would go in."""
    asked: list[int] = []

    def size(count: int) -> int:
        asked.append(count)
        return 100 + int(count**0.9 * 50)

    assert size(fitting(10_000, size, 60_000)) > 59_000
    assert len(asked) < 8


@pytest.mark.parametrize("kind", [">i4", "<i4"])
def test_bytes_do_not_depend_on_the_machine(kind: str) -> None:
    assert packed([np.array([1, 2, -3], dtype=kind)]) == packed([np.array([1, 2, -3], dtype=np.int32)])
