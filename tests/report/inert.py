"""Reads a page, and asserts that nothing on it acts."""

from __future__ import annotations

from html.parser import HTMLParser

from neuronlens.pages.environment import template_text

HOSTILE = (
    "<script>alert(1)</script>",
    "</svg></style></title><img src=x onerror=alert(1)>",
    '"onload="alert(1)',
    "{{7*7}}{% raw %}",
    "[a](javascript:alert(1))",
    "a.b['c']\\datum",
    "nul\x00 bell\x07 esc\x1b[31m",
    "\u202egnp.exe\u2066 \u200b",
)
ACTIVE = {
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "img",
    "image",
    "use",
    "foreignobject",
    "animate",
}
VOID = {"meta", "br", "wbr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the text outside <style> and <script>, and whether every element was closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def assert_inert(page: Page) -> None:
    assert page.open == []
    assert page.count("script") == len(page.scripts)
    assert page.scripts in ([], [template_text("explorer.js")]), "no data is put into a script"
    for tag, attributes in page.elements:
        assert tag not in ACTIVE
        assert tag != "script" or not attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"  # the policy's hash would block it
            assert name not in ("src", "srcset", "action", "xlink:href")
            assert name != "href" or str(value).startswith("#")
