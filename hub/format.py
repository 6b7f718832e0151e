"""What ``models.lock`` has to hold for a plan to be made of it.

The file lies beside the inventories, is merged by git and edited by hand: a size that is none, or
an evaluation that is missing, would be read as room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from planner.traced import PROCESSORS, Processor, endings

FORMAT = 12
Size = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _File(_Part):
    path: str
    size: Size
    sha256: Sha256 | None = None
    oid: str | None = None
    mtime_ns: int | None = None


class _Checkpoint(_Part):
    tensors: Size
    bytes_by_dtype: dict[str, Size]


class _Kind(_Part):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Size]  # all but its name are bytes and numbers
    kind: str


class _Rank(_Part):
    weights: Annotated[int, Field(gt=0)]
    kinds: list[_Kind]


class _Program(_Part):
    tasks: str = ""
    runs: str = ""
    steps: dict[str, _Program] = Field(default_factory=dict)


class _Traced(_Part):
    mlx_lm: str
    mlx: str
    model_type: str
    layers: Size
    parameters: Size
    alone: str
    context_max: Size | None
    head_dims: list[Size]
    dtype: str
    logits_row_bytes: Size
    loading: Size
    ranks: dict[str, _Rank | str]
    programs: dict[str, _Program]
    assumed: list[str] = Field(default_factory=list)


class _Entry(_Part):
    files: list[_File]
    checkpoint: _Checkpoint
    traces: dict[str, _Traced | str]
    content: str | None = None


class _Lock(_Part):
    models: dict[str, _Entry]


def wrong(data: Mapping[str, Any]) -> str:
    """What is wrong with what was read of a lock of this format, in one line; "" where nothing."""
    try:
        lock = _Lock.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    for source, entry in lock.models.items():
        for key, traced in entry.traces.items():
            on = next((one for one in PROCESSORS if key.split(" ", 2)[2:] == [one]), None)
            if on is None:
                asked = f"versions of mlx-lm and mlx, and one of {', '.join(PROCESSORS)}"
                return f"{source}: traces.{key}: expected {asked}"
            if isinstance(traced, _Traced) and (missing := _missing(traced, on)):
                return f"{source}: nothing of `{missing}`"
    return ""


def _missing(traced: _Traced, processor: Processor) -> str:
    """The first thing that a plan may ask for and that is not there; "" where all is."""
    if not isinstance(traced.ranks.get("1"), _Rank):
        return "ranks.1"
    # What is recorded of every model (planner/hollow/program.py, `parts`).
    ends = endings(processor, traced.dtype, traced.head_dims)
    chunks, others = ["admit", "chunk", "stay"], ["join", "roll"]
    if traced.alone:
        chunks, others = ["chunk"], ["step"]
    asked = [f"{chunk}{way}" for chunk in chunks for way in ends]
    for name in (*asked, *others):
        made = traced.programs.get(name) or traced.programs.get(f"{name} within")
        if not made or not (made.steps or (made.tasks if processor == "cpu" else made.runs)):
            return f"programs.{name}"
    return ""
