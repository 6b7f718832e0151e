"""One module an engine: how it is started, asked and read.  Nothing else here knows any.

A further engine is a module beside these, with its name in ``ENGINES``.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:  # the configuration asks here which engines there are
    from guard.ask import Ask, Event
    from guard.config import Config, Group

ENGINES = ("mlx",)


class Client(Protocol):
    """Asks one running engine; all three raise EngineBroke."""

    async def facts(self) -> dict[str, Any]:
        """What only the engine knows: ``fingerprint``, ``batchable``, bytes of memory."""

    async def alive(self) -> bool:
        """Whether it can generate, by its own word."""

    def generate(self, ask: Ask) -> AsyncGenerator[Event]:
        """Ask, and yield what comes; leaving calls the request off."""


class EngineModule(Protocol):
    def command(self, config: Config, path: str) -> list[str]:
        """How it is started, to listen on a unix socket at ``path``."""

    def tokenizer_command(self, config: Config) -> list[str]:
        """How the child of ``guard/tokenizer.py`` is started."""

    def environment(self, config: Config) -> dict[str, str]:
        """All that both of them inherit."""

    def group_environment(self, group: Group, run_dir: Path) -> dict[str, str]:
        """A rank's besides; raises OSError where its network is not as declared."""

    def weights_bytes(self, model: Path) -> int:
        """What is read to load."""

    def keep_kernels(self, config: Config) -> None:
        """Before a start: have room for what it compiles."""

    def forget_kernels(self, config: Config) -> None:
        """After an end that may have been over one of them."""

    def Engine(self, path: str) -> Client:  # noqa: N802 - a class
        """Asks the one that listens at ``path``."""


def module(name: str) -> EngineModule:
    return cast("EngineModule", importlib.import_module(f"{__name__}.{name}"))


if TYPE_CHECKING:
    from guard.engines import mlx

    _: EngineModule = mlx
