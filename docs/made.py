"""Pages of the site that are made of the repository: the front page, the reference, and files outside of docs/ that pages link to.

mkdocs calls the functions here (`hooks` in mkdocs.yml), mkdocstrings the class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from flows.verbs import app

ROOT = Path(__file__).resolve().parent.parent
# pages that have a file of their own at the top of the repository
TOP = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made."""
    made = {page: (ROOT / file).read_text(encoding="utf-8") for page, file in TOP.items()}
    made |= {"reference/command-line.md": command_line(), "reference/params.md": parameters()}
    made |= {f"reference/{room}.md": text for room, text in rooms()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for file in sorted({file for page in files.documentation_pages() for file in _outside(page)}):
        files.append(File.generated(config, f"repository/{file}", abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links mean in the repository what they mean on the site."""
    return _LINK.sub(lambda link: f"{link[1]}{_target(page.file, link[2])}{link[3] or ''}{link[4]}", markdown)


def _place(file: File, link: str) -> Path | None:
    """What a link of a page names in the repository; None for an address."""
    if ":" in link:
        return None
    own = ROOT / TOP.get(file.src_uri, f"docs/{file.src_uri}")
    return (own.parent / link).resolve()


def _outside(file: File) -> Iterator[str]:
    """What a page links to that is no page."""
    for link in _LINK.finditer(file.content_string):
        place = _place(file, link[2])
        if place is not None and place.is_file() and not place.is_relative_to(ROOT / "docs"):
            name = place.relative_to(ROOT).as_posix()
            if name not in TOP.values():
                yield name


def _target(file: File, link: str) -> str:
    place = _place(file, link)
    if place is None or not place.is_relative_to(ROOT):
        return link
    name = place.relative_to(ROOT).as_posix()
    page = next((page for page, top in TOP.items() if top == name), None)
    if page is None:
        page = name.removeprefix("docs/") if name.startswith("docs/") else f"repository/{name}"
    return "../" * file.src_uri.count("/") + page


def rooms() -> Iterator[tuple[str, str]]:
    """Each package of the library, what lies beside them, and the two floors above: name -> its modules."""
    found: dict[str, list[str]] = {}
    for top in ("neuronlens", "tasks", "flows"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = [*file.relative_to(ROOT).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            inner = top == "neuronlens" and (ROOT / top / "/".join(parts[1:2])).is_dir() and len(parts) > 1
            found.setdefault(".".join(parts[:2]) if inner else top, []).append(".".join(parts))
    for room, modules in found.items():
        yield room, f"# {room}\n\n" + "\n".join(f"::: {name}\n" for name in modules)


def command_line() -> str:
    """The help of every verb, as typer prints it."""
    runner = CliRunner()
    told = "[lines.md](../lines.md#for-programs) has what each verb prints with `--json`, and the exit codes."
    text = [f"# Command line\n\nWhat `neuronlens VERB --help` prints. {told}\n"]
    for command in app.registered_commands:
        shown = runner.invoke(app, [str(command.name), "--help"], prog_name="neuronlens", terminal_width=86)
        if shown.exit_code:
            raise RuntimeError(f"neuronlens {command.name} --help: {shown.output}")
        text.append(f"## {command.name}\n\n```text\n{shown.output.strip()}\n```\n")
    return "\n".join(text)


def parameters() -> str:
    """params.yaml, which explains itself."""
    told = "The file of the repository: every parameter, with its default. `neuronlens schema` prints its JSON schema."
    return f"# params.yaml\n\n{told}\n\n```yaml\n{(ROOT / 'params.yaml').read_text(encoding='utf-8')}```\n"


class SeparateNames(griffe.Extension):
    """Docstrings say `lower, upper: bounds` of what has one meaning; griffe wants an entry for each."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"(?m)^( {4,8})(\w+(?:, \*{0,2}\w+)+): (.*(?:\n\1 +.*)*)",
                lambda m: "\n".join(f"{m[1]}{name}: {m[3]}" for name in m[2].split(", ")),
                obj.docstring.value,
            )
