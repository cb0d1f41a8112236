"""What tests of the evaluation share."""

from __future__ import annotations

import pytest

from tests.conftest import sentences


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory):
    file = tmp_path_factory.mktemp("auxiliary") / "ordinary.txt"
    file.write_text("\n".join(sentences(2, seed=9)), encoding="utf-8")
    return file
