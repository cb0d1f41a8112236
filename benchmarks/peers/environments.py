"""An environment for each peer, apart from the project's: the peer's release on top of the releases that NeuronLens itself is pinned to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

RELEASES: Mapping[str, str] = {
    "neurox": "1.0.9",
    "nnsight": "0.8.1",
    "pyvene": "0.1.8",
    "transformer-lens": "4.3.0",
}
_LOCK = Path("requirements.lock")
# NeuroX asks for the releases of its year, most of which are older than any Python we run on; it works with those of today
_ANY_RELEASE = ("h5py", "imbalanced-learn", "seaborn", "svgwrite")
_NEURONLENS = ("torch", "transformers", "numpy", "pydantic", "pyyaml")  # what its capture imports


class InstallError(Exception):
    """uv could not make an environment; the text is its reason, in one line."""


def environment(name: str, home: Path) -> Path:
    """The Python of a peer's environment, which is made if it is not there or was made of something else.

    Args:
        home: folder of the environments.

    Raises:
        InstallError: the release does not install.
    """
    folder = home / name
    python, ready, overrides = folder / "bin/python", folder / "ready.txt", home / f"{name}.overrides.txt"
    asked = [f"{name}=={RELEASES[name]}", *_NEURONLENS]
    made_of = "\n".join([*asked, *_ANY_RELEASE, _LOCK.read_text(encoding="utf-8")])
    if ready.exists() and ready.read_text(encoding="utf-8") == made_of:
        return python
    home.mkdir(exist_ok=True)
    overrides.write_text("\n".join(_ANY_RELEASE), encoding="utf-8")
    _uv("venv", "--clear", "--python", sys.executable, str(folder))
    # overrides hold against what a peer asks for as well, so that one torch and one transformers stand under all of them
    pins = ["--override", str(_LOCK), "--override", str(overrides)]
    _uv("pip", "install", "--python", str(python), *pins, *asked)
    ready.write_text(made_of, encoding="utf-8")
    return python


def _uv(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments, "--quiet"], capture_output=True, text=True)
    if done.returncode:
        # uv draws a tree of causes
        words = [word for word in done.stderr.split() if any(map(str.isalnum, word))]
        raise InstallError(" ".join(words)[:300] or f"uv exited with {done.returncode}")
