"""A hub on this machine, as much of it as its client asks for: the commits of a repository, and their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REPOSITORY = "owner/name"


def sha(number: int) -> str:
    """Of a commit."""
    return f"{number:040x}"


@contextmanager
def hub(revisions: Sequence[Path]) -> Iterator[str]:
    """The address of a hub that has one repository. Its commits are listed a page each.

    Args:
        revisions: a folder of each commit, the oldest first.
    """
    folders = {sha(number): folder for number, folder in enumerate(revisions, 1)}
    newest = [*reversed(folders)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            parts = path.strip("/").split("/")
            if parts[:3] == ["api", "models", "owner"] and parts[3] == "name":
                self._api(parts[4:], query)
            elif (
                parts[:3] == ["owner", "name", "resolve"]
                and (folders.get(parts[3], Path("/none")) / parts[4]).is_file()
            ):
                data = (folders[parts[3]] / parts[4]).read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self._answer(
                    data, {"ETag": etag, "X-Repo-Commit": parts[3], "Content-Type": "application/octet-stream"}
                )
            else:
                self._answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

        do_HEAD = do_GET  # noqa: N815 - http.server looks a method up by this name

        def _api(self, parts: Sequence[str], query: str) -> None:
            if parts[:1] == ["commits"]:
                page = int(query.removeprefix("page=") or 0)
                commit = {
                    "id": newest[page],
                    "title": "",
                    "message": "",
                    "date": "2026-01-01T00:00:00.000Z",
                    "authors": [],
                }
                more = page + 1 < len(newest)
                link = f'<http://{self.headers["Host"]}{self.path.partition("?")[0]}?page={page + 1}>; rel="next"'
                self._json([commit], {"Link": link} if more else {})
            elif parts[:1] == ["tree"]:
                entry = {"type": "file", "oid": "0" * 40}
                files = sorted(folders[parts[1]].iterdir())
                self._json([entry | {"path": file.name, "size": file.stat().st_size} for file in files])
            else:
                at = parts[1] if parts[:1] == ["revision"] else newest[0]
                names = sorted(file.name for file in folders[at].iterdir())
                self._json({"id": REPOSITORY, "sha": at, "siblings": [{"rfilename": name} for name in names]})

        def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
            self._answer(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _answer(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
