"""A workspace of small stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.versioning import Decision, Workspace
from tests.compared import audits

__all__ = ["audits"]

STAGES = ("one", "two", "three")


class Toy:
    """A pipeline one -> two -> three. Each stage writes its parameter and what it reads into a folder of its own name.

    Attributes:
        computed: names of the stages that were computed, in order.
    """

    def __init__(self, root: Path) -> None:
        self.workspace, self.root, self.computed = Workspace.create(root), root, list[str]()
        (root / "raw.txt").write_text("raw")
        self.set(one=1, two=2, three={"deep": [3]})
        before = "raw.txt"
        stages = {}
        for name in STAGES:
            stages[name] = {"cmd": f"make {name}", "deps": [before], "params": [name], "outs": [name]}
            before = name
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    def set(self, **values: object) -> None:
        """Parameters."""
        file = self.root / "params.yaml"
        known = yaml.safe_load(file.read_text()) if file.exists() else {}
        file.write_text(yaml.safe_dump(known | values))

    def make(self, name: str) -> None:
        """What a stage does."""
        from neuronlens.artifact import fresh_folder

        before = dict(zip(STAGES, ("raw.txt", "one/out.txt", "two/out.txt"), strict=True))[name]
        text = (self.root / before).read_text() + str(yaml.safe_load((self.root / "params.yaml").read_text())[name])
        with fresh_folder(self.root / name) as folder:
            (folder / "out.txt").write_text(text)
        self.computed.append(name)

    def ensure(self, name: str, **more: Callable[[], bool] | bool) -> Decision:
        """Bring one stage up to date."""
        return self.workspace.ensure(f"dvc.yaml:{name}", lambda: self.make(name), **more)

    def run(self) -> list[tuple[str, str]]:
        """Bring all stages up to date; outcome and reason of each."""
        return [(found.outcome, found.reason) for found in map(self.ensure, STAGES)]

    def look(self) -> list[tuple[str, str]]:
        """What `run` would do."""
        return [(found.outcome, found.reason) for found in self.workspace.look([f"dvc.yaml:{name}" for name in STAGES])]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """None of its stages has been run."""
    return Toy(tmp_path / "toy")
