"""Starts mlx_lm.server inside its runtime, with what its HTTP interface cannot reach."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--guard-memory-limit", type=int)
    parser.add_argument("--guard-cache-limit", type=int)
    mine, sys.argv[1:] = parser.parse_known_args()

    import mlx.core as mx
    from mlx_lm import server

    if mine.guard_memory_limit is not None:
        mx.set_memory_limit(mine.guard_memory_limit)
    if mine.guard_cache_limit is not None:
        mx.set_cache_limit(mine.guard_cache_limit)
    server.main()


if __name__ == "__main__":
    main()
