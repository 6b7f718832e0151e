"""Are the weights whole, and the same as another's?  By their headers, in milliseconds.

mlx-lm loads an incomplete snapshot without an error in tensor mode, and generates garbage.  The
deploy verifies every byte; here, before each start of a rank, each shard of the index must be there
and as long as its own header says.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


class Incomplete(Exception):  # noqa: N818 - what is wrong, as a clause
    """The weights cannot be served; the message names the file."""


def fingerprint(model: Path) -> str:
    """Digest of config and all shards' names, lengths and headers; raises Incomplete."""
    digest = hashlib.sha256((model / "config.json").read_bytes())
    shards = sorted(file.name for file in model.glob("model*.safetensors"))
    index = model / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if absent := sorted(named - set(shards)):
            raise Incomplete(f"{model}: missing: {', '.join(absent)}")
    if not shards:
        raise Incomplete(f"{model}: no model*.safetensors")
    for name in shards:
        header, length = _header(model / name)
        if (size := (model / name).stat().st_size) != length:
            raise Incomplete(f"{model / name}: {size} bytes, its header says {length}")
        digest.update(f"{name} {length} ".encode() + header)
    return digest.hexdigest()


def _header(shard: Path) -> tuple[bytes, int]:
    """The header of a safetensors file, and how long the file must be by it."""
    with shard.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, 100 << 20))
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError):
        raise Incomplete(f"{shard}: its header is not whole") from None
    return header, 8 + size + max(ends, default=0)
