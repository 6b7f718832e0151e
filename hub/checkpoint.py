"""A checkpoint without its data: safetensors headers, checked, and hollow files made of them.

Format: https://huggingface.co/docs/safetensors/index#format. An 8-byte little-endian length, a
JSON object (tensor name: dtype, shape, offsets into the data), then the data.
"""

from __future__ import annotations

import json
import math
import reprlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The largest header that the format's own library accepts (safetensors, `MAX_HEADER_SIZE`).
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64  # of a shape, far more than MLX has a use for
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be what it says; the message names the file."""


def header_length(start: bytes, *, file: str, size: int) -> int:
    """The header's length from a file's first 8 bytes; ``size`` is the whole file's, in bytes."""
    if len(start) < 8:  # noqa: PLR2004 -- the length is a 64-bit integer
        raise CheckpointError(f"`{file}` is {len(start)} bytes: too short for a safetensors file")
    length: int = struct.unpack("<Q", start[:8])[0]
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"`{file}` announces a header of {length} bytes; the format allows {MAX_HEADER_BYTES}"
        )
    if length + 8 > size:
        raise CheckpointError(
            f"`{file}` announces a header of {length} bytes but is {size} bytes in all: truncated"
        )
    return length


def read_header(raw: bytes, *, file: str, size: int) -> dict[str, Any]:
    """The checked header: each tensor in the file, as long as its shape, none overlapping.

    ``raw`` is the JSON, ``size`` the whole file's bytes. Raises CheckpointError.
    """
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):  # a ValueError also of an integer of 5000 digits
        raise CheckpointError(f"`{file}`: its header is not JSON") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"`{file}`: its header is not a JSON object")
    data = size - 8 - len(raw)
    header.pop("__metadata__", None)
    spans: list[tuple[int, int, str]] = []
    for name, tensor in header.items():
        spans.append((*_span(name, tensor, file=file, data=data), name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            raise CheckpointError(
                f"`{file}`: tensor `{name}` starts at byte {start} of the data, expected {at}"
            )
        at = end
    if at != data:
        raise CheckpointError(f"`{file}`: its tensors end at byte {at} of {data} bytes of data")
    return header


def _span(name: str, tensor: object, *, file: str, data: int) -> tuple[int, int]:
    if not isinstance(tensor, dict) or not {"dtype", "shape", "data_offsets"} <= set(tensor):
        raise CheckpointError(f"`{file}`: tensor `{name}` has no dtype, shape and data_offsets")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise CheckpointError(
            f"`{file}`: tensor `{name}` is of the unknown type {reprlib.repr(dtype)}"
        )
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if (
        not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        or len(offsets) != 2  # noqa: PLR2004 -- from and to
        or len(shape) > MAX_DIMENSIONS
    ):
        raise CheckpointError(f"`{file}`: tensor `{name}`: expected shape and offsets of integers")
    start, end = offsets
    if end < start or end > data:
        raise CheckpointError(
            f"`{file}`: tensor `{name}` lies at bytes {start} to {end} of {data} bytes of data"
        )
    if (end - start) * 8 != math.prod(shape) * bits:
        raise CheckpointError(
            f"`{file}`: tensor `{name}` of shape {reprlib.repr(shape)} and type {dtype} "
            f"takes {math.prod(shape) * bits // 8} bytes, its offsets say {end - start}"
        )
    return start, end


def write_hollow(path: Path, header: Mapping[str, Any]) -> None:
    """A file with this header and a hole where the data would be; it takes no disk space."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
