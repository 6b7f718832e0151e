"""A hub as those who use it see it: started, fed, made to fail, and asked what it saw."""

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.hub.faults import Fault
from lab.machine import LabError, read_json, write_json
from lab.processes import Process, spawn

PAGE_SIZE = 1000
"""Entries on one page of a tree, as on the public hub."""

_PROJECT = Path(__file__).resolve().parents[2]


class Hub:
    """A hub in a process of its own. Needs no root.

    Within `with Hub(directory) as hub:` it lasts as long as the block, or this process; with
    `outlives=True` and `start()` it stays until `stop()`.
    """

    token = "hf_lab_reads_everything"  # noqa: S105  # opens nothing outside the lab
    """A token that may read every repository."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        page_size: int = PAGE_SIZE,
        outlives: bool = False,
    ) -> None:
        """Prepare a hub whose records stand in a directory; one that stands there is found."""
        self.directory = directory.resolve()
        self._settings = self.directory / "settings.json"
        if not self._settings.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            owner = None if outlives else Process.of(os.getpid()).to_json()
            settings = {"address": address, "page_size": page_size, "owner": owner}
            write_json(self._settings, settings)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is to be."""
        settings = read_json(self._settings)
        return f"http://{settings['address']}:{settings['ports']['hub']}"

    def running(self) -> bool:
        """Whether its process runs."""
        process = self._process()
        return process is not None and process.alive()

    def start(self) -> None:
        """Start it, on the ports it had before if it was stopped; wait until it answers."""
        if self.running():
            return
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        process = spawn(
            sys.executable,
            "-m",
            "lab.hub.server",
            self.directory,
            log=self.directory / "log",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_PROJECT)},
        )
        write_json(self.directory / "process.json", process.to_json())
        deadline = time.monotonic() + 20
        while not ready.exists():
            if not process.alive() or time.monotonic() > deadline:
                raise LabError(f"the hub does not start: {(self.directory / 'log').read_text()}")
            time.sleep(0.02)
        self._ask("POST", "/tokens", {self.token: ["*"]})

    def stop(self) -> None:
        """Stop it; what it serves is remembered."""
        process = self._process()
        if process is not None:
            process.end()

    # What it serves

    def add_repo(
        self,
        name: str,
        directory: Path,
        *,
        private: bool = False,
        gated: bool = False,
        branch: str = "main",
    ) -> str:
        """Commit a directory's files as a repository and return the commit's id.

        The id follows from the contents. The files are served from where they are. Adding other
        files under the same name is a second commit; the first stays.
        """
        wanted = {
            "name": name,
            "directory": str(directory.resolve()),
            "private": private,
            "gated": gated,
            "branch": branch,
        }
        return str(self._ask("POST", "/repositories", wanted)["commit"])

    def models(self) -> dict[str, str]:
        """Return its repositories, and the commit of each one's main branch."""
        found: dict[str, str] = self._ask("GET", "/repositories")
        return found

    def add_token(self, token: str, *may_read: str) -> None:
        """Know a token, and the private and gated repositories that it opens (as patterns)."""
        self._ask("POST", "/tokens", {token: list(may_read)})

    # What goes wrong, and what was seen

    @contextmanager
    def afflicted(self, *faults: Fault) -> Iterator[None]:
        """Let things go wrong within a block."""
        self.afflict(*faults)
        try:
            yield
        finally:
            self.afflict()

    def afflict(self, *faults: Fault) -> None:
        """Let just these things go wrong from now on; with none, nothing."""
        self._ask("PUT", "/faults", [fault.to_json() for fault in faults])

    def asked(self) -> list[dict[str, Any]]:
        """Return every request since the start or `forget_asked`.

        Each has server (`hub` or `storage`), method, path, range, with_token, client, status, and
        the bytes that were sent.
        """
        seen: list[dict[str, Any]] = self._ask("GET", "/asked")
        return seen

    def forget_asked(self) -> None:
        """Forget them."""
        self._ask("DELETE", "/asked")

    # Inside

    def _process(self) -> Process | None:
        record = self.directory / "process.json"
        return Process.of_json(read_json(record)) if record.exists() else None

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | Sequence[Any] | None = None
    ) -> Any:  # noqa: ANN401  # JSON is whatever it is
        port = read_json(self._settings)["ports"]["control"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(method, path, json.dumps(body))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        answer = json.loads(text) if text else {}
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise LabError(f"hub: {answer.get('error', text)}")
        return answer
