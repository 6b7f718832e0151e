"""Amounts of memory as people read them."""

from __future__ import annotations

GIB = 2**30
MIB = 2**20


def gib(size: int) -> str:
    """``1.5 GiB``; MiB where that is less than a tenth of one."""
    if abs(size) < GIB // 10:
        return f"{size / MIB:.0f} MiB"
    return f"{size / GIB:.1f} GiB"
