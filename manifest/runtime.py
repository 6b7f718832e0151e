"""The virtual environments of a host: uv, the guard's, the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifest import layout, locks
from manifest.manifest import digest
from manifest.resources import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A host's Python, which every environment is made with."""

    path: str
    version: str  # full: 3.11.2
    architecture: str  # `uname -m`


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One environment to be: where, from which lock, with which source files of ours in it."""

    path: str
    record: str
    packages: str  # digest of what the lock installs
    lock: str  # the requirements file's text
    interpreter: Interpreter
    source: Mapping[str, str]  # path below site-packages to text

    def resource(self) -> Runtime:
        """What the manifest holds of it."""
        return Runtime(path=self.path, record=self.record, packages=self.packages)


def environment(
    below: str,
    lock: str,
    interpreter: Interpreter,
    *,
    label: str = "",
    source: Mapping[str, str] | None = None,
) -> Environment:
    """Declare an environment below a directory, named by the digest of all that it is made of."""
    made_of = [layout.VERSION, lock, interpreter.path, interpreter.version]
    name = digest([*made_of, interpreter.architecture, sorted((source or {}).items())])[:16]
    return Environment(
        path=f"{below}/{label}{name}",
        record=f"{layout.RECORDS}/{below.rpartition('/')[2]}-{label}{name}.json",
        packages=locks.contents(
            lock, python=interpreter.version, architecture=interpreter.architecture
        ),
        lock=lock,
        interpreter=interpreter,
        source=source or {},
    )
