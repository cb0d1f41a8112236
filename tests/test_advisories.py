"""Known weaknesses of pinned packages fail the checks, unless they are waived until a day; that nobody could look does not."""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path

import pytest

from tests import advisories
from tests.advisories import LOCK, WAIVERS, judged, look, main, read_waivers
from tests.conftest import ROOT

TODAY = date(2026, 12, 1)
WEAK = {"name": "zlib", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-7"], "fix_versions": ["2"]}]}
SOUND = {"name": "sound", "version": "1", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI"}


def waiver(advisory: str, until: str) -> str:
    return f'[[waived]]\nadvisory = "{advisory}"\nuntil = {until}\nreason = "not called here"\n'


def test_a_weakness_fails_and_says_what_to_do() -> None:
    told = judged({"dependencies": [WEAK, SOUND]}, {}, TODAY)
    assert told.fails
    assert told.lines == [
        "zlib 1: PYSEC-1; fixed in 2. Raise the pin, or waive it in advisories.toml until a day, with a reason."
    ]


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-7"])
def test_a_waiver_holds_until_its_day(name: str) -> None:
    report = {"dependencies": [WEAK]}
    told = judged(report, read_waivers(waiver(name, "2026-12-01")), TODAY)
    assert (told.fails, told.lines) == (False, ["zlib 1: PYSEC-1, waived until 2026-12-01: not called here"])
    ended = judged(report, read_waivers(waiver(name, "2026-11-30")), TODAY)
    assert ended.fails
    assert "whose waiver has ended on 2026-11-30" in ended.lines[0]


def test_a_waiver_of_nothing_is_told() -> None:
    told = judged({"dependencies": [SOUND]}, read_waivers(waiver("PYSEC-9", "2027-01-01")), TODAY)
    assert (told.fails, told.lines) == (
        False,
        ["PYSEC-9 is waived and not found any more: take it out of advisories.toml"],
    )


def test_packages_that_nobody_knows_are_not_called_sound() -> None:
    told = judged({"dependencies": [SOUND, SKIPPED]}, {}, TODAY)
    assert (told.fails, told.lines) == (False, ["of 1 of 2 packages the index knows no advisories: own ..."])
    assert judged({"dependencies": [SOUND]}, {}, TODAY).lines == ["none is known of 1 packages"]


@pytest.mark.parametrize(
    "text",
    [
        waiver("A", '"2026-12-01"'),
        '[[waived]]\nadvisory = "A"\n',
        waiver("A", "2026-12-01").replace("not called here", " "),
    ],
)
def test_a_waiver_without_a_day_or_a_reason_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="a waiver has an advisory, a day"):
        read_waivers(text)


def test_that_nobody_could_look_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main([]) == 0
    assert capsys.readouterr().out == "advisories: no index can be asked from here, so nobody has looked\n"
    (tmp_path / "uv").write_text("#!/bin/sh\nsleep 20\n")
    (tmp_path / "uv").chmod(0o755)
    assert "has not answered within 0.1 s" in str(look(LOCK, 0.1))


def test_those_of_the_repository_are_read() -> None:
    read_waivers(WAIVERS.read_text())
    example = re.sub(r"^# ?", "", WAIVERS.read_text().partition("\n#\n")[2], flags=re.MULTILINE)
    assert read_waivers(example).keys() == {"PYSEC-2026-1"}
    assert str(advisories.LOCK) == str(ROOT / "requirements.lock")
