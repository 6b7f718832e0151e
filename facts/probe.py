"""What is there in the place of what is expected: a whole manifest in one round trip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from manifest.manifest import Manifest, read
from manifest.resources import Resource

TREE, _PROBE = (
    (Path(__file__).parent / f"{name}_program.py").read_text(encoding="utf-8")
    for name in ("tree", "probe")
)
PROGRAM = f"{TREE}\n{_PROBE}"
TIMEOUT = 120  # seconds; a cuda runtime of 20,000 files takes under one


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a probe found: resources, the stamp's text, and what it could not read."""

    manifest: Manifest
    stamp: str | None  # the file's text, as it is
    boot: str
    problems: tuple[str, ...] = ()
    deploying: str | None = None  # who holds the deploy lock
    texts: Mapping[str, str] = field(default_factory=dict)  # of readable files that differ, by path

    def to_json(self) -> dict[str, Any]:
        """Give what pyinfra's own commands print."""
        return {"manifest": self.manifest.to_json(), "stamp": self.stamp, "boot": self.boot}


class Probe(FactBase[Answer | None]):
    """
    What the host has, asked through ``look``; None where the host could not say.
    """

    @override
    def command(self) -> str:
        return "python3 -I -"

    @override
    def process(self, output: list[str]) -> Answer:
        return parse("\n".join(output))


def question(expected: Iterable[Resource], *, deep: bool = False) -> str:
    """Give the program and its question, as text for ``python3 -``.

    What cannot be read in half the time that pyinfra waits is said to be unread.
    """
    resources = [one.to_json() for one in expected]
    asked = json.dumps({"resources": resources, "deep": deep, "seconds": TIMEOUT / 2})
    return f"{PROGRAM}\nmain(json.loads({asked!r}))\n"


def parse(text: str) -> Answer:
    """Read a probe's answer; raises ``FactProcessError`` where it is not one."""
    try:
        answer = json.loads(text)
        return Answer(
            manifest=read(answer["resources"]),
            stamp=answer["stamp"],
            boot=(answer["boot"] or "").strip(),
            problems=tuple(answer["problems"]),
            deploying=answer["deploying"],
            texts=answer["texts"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FactProcessError(f"probe: no answer, {error}: {text[:200]!r}") from None


def look(expected: Iterable[Resource], *, deep: bool = False) -> Answer | None:
    """Ask the current host; None where it could not say, and pyinfra has failed the host then."""
    answer: Answer | None = host.get_fact(
        Probe, _stdin=question(expected, deep=deep), _timeout=TIMEOUT
    )
    return answer
