"""``python -m guard CONFIG``: run one engine and stand in front of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from guard.config import ConfigError, load
from guard.notify import Notifier
from guard.supervisor import supervise

EX_CONFIG = 78  # sysexits(3); the unit does not restart on it


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m guard CONFIG", file=sys.stderr)
        return EX_CONFIG
    try:
        config = load(Path(arguments[0]))
    except ConfigError as error:
        print(f"guard: {error}", file=sys.stderr)
        return EX_CONFIG
    return asyncio.run(supervise(config, Notifier.from_environment()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
