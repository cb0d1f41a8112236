"""Known weaknesses of what the lock file pins: `python -m tests.advisories`, which asks the package index by pip-audit.

What is found ends in exit code 1, unless advisories.toml waives it: until a day, for a reason. Where the index cannot be asked, or not in
time, a sentence says so and nothing fails: that nobody could look is no weakness.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK, WAIVERS = ROOT / "requirements.lock", ROOT / "advisories.toml"
# a tool of its own, which shares no package with what it looks at, and is fetched where there is an index to ask at all
_ASK = ["uv", "tool", "run", "--quiet", "--from", "pip-audit==2.10.1", "pip-audit", "--no-deps", "--disable-pip"]
_ASK += ["--progress-spinner", "off", "--format", "json", "--requirement"]


@dataclass(frozen=True)
class Told:
    """What is to be said, and whether it fails."""

    lines: Sequence[str]
    fails: bool


def read_waivers(text: str) -> dict[str, tuple[date, str]]:
    """Advisory -> last day of its waiver, and the reason.

    Raises:
        ValueError: an entry lacks one of them, or says something else.
    """
    found = {}
    for entry in tomllib.loads(text).get("waived", []):
        if (
            {*entry} != {"advisory", "until", "reason"}
            or type(entry["until"]) is not date
            or not str(entry["reason"]).strip()
        ):
            raise ValueError(
                f"{WAIVERS.name}: a waiver has an advisory, a day `until` which it holds, and a reason: {entry}"
            )
        found[str(entry["advisory"])] = entry["until"], str(entry["reason"])
    return found


def judged(report: Mapping[str, Any], waivers: Mapping[str, tuple[date, str]], today: date) -> Told:
    """What pip-audit has found, held against the waivers.

    Args:
        report: its JSON.
    """
    packages = report["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    lines, fails, used = [], False, set()
    for package in packages:
        for weakness in package.get("vulns", ()):
            names = [weakness["id"], *weakness.get("aliases", ())]
            waived = next((name for name in names if name in waivers), None)
            what = f"{package['name']} {package['version']}: {weakness['id']}"
            if waived is not None:
                used.add(waived)
                until, reason = waivers[waived]
                if today <= until:
                    lines.append(f"{what}, waived until {until}: {reason}")
                    continue
                what += f", whose waiver has ended on {until}"
            fixed = ", ".join(weakness.get("fix_versions", ())) or "no version yet"
            lines.append(
                f"{what}; fixed in {fixed}. Raise the pin, or waive it in {WAIVERS.name} until a day, with a reason."
            )
            fails = True
    lines += [
        f"{name} is waived and not found any more: take it out of {WAIVERS.name}"
        for name in sorted({*waivers} - used)
        if not unknown
    ]
    if unknown:
        lines.append(
            f"of {len(unknown)} of {len(packages)} packages the index knows no advisories: {', '.join(unknown[:3])} ..."
        )
    elif not lines:
        lines.append(f"none is known of {len(packages)} packages")
    return Told(lines, fails)


def look(lock: Path, seconds: float) -> Mapping[str, Any] | str:
    """pip-audit's report, or why there is none."""
    try:
        done = subprocess.run(
            [str(Path(sys.executable).with_name(_ASK[0])), *_ASK[1:], str(lock)],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        found: Mapping[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return f"the index has not answered within {seconds:g} s; `make audit-dependencies` gives it more"
    except (OSError, ValueError):
        return "no index can be asked from here, so nobody has looked"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="that the index has to answer")
    seconds = parser.parse_args(arguments).seconds
    waivers = read_waivers(WAIVERS.read_text(encoding="utf-8"))
    found = look(LOCK, seconds)
    told = Told([found], False) if isinstance(found, str) else judged(found, waivers, date.today())
    sys.stdout.writelines(f"advisories: {line}\n" for line in told.lines)
    return int(told.fails)


if __name__ == "__main__":
    raise SystemExit(main())
