"""The guard's configuration: one JSON file, written by the deploy, read once at start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from guard.engines import ENGINES

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
Instance = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[0-9]+(\.[0-9]+)?$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/")]
EngineVariable = Annotated[str, StringConstraints(pattern=r"^(MLX|NCCL|OMP|CUDA)_[A-Z0-9_]+$")]
BODY_BYTES = 256 << 10  # of a request without a prompt: tools, settings, the frame of messages
TOKEN_BYTES = 32  # of a prompt, for each token; a character escaped as JSON takes up to 12


class ConfigError(Exception):
    """The configuration cannot be used; the message says every reason at once."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Address = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+:[0-9]{1,5}$")]


class Group(Section):
    """One rank of a model over several GPUs or hosts."""

    rank: Annotated[int, Field(ge=0)]
    backend: Literal["nccl", "ring"]
    ranks: Annotated[tuple[Address, ...], Field(min_length=2)]
    """Each rank's own ``IP:PORT`` on the fabric, for MLX's traffic."""
    meeting: Address
    """Where rank 0's guard listens for the others' guards; on the fabric too."""
    link_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """Silence of another guard after which it counts as lost."""
    start_deadline_s: Annotated[float, Field(gt=0)] = 900.0
    """From the meeting to the first token."""

    @property
    def world(self) -> int:
        return len(self.ranks)

    @model_validator(mode="after")
    def _rank_is_one_of_them(self) -> Group:
        if self.rank >= self.world:
            raise ValueError(f"rank {self.rank} of {self.world} ranks")
        return self


class Config(Section):
    """Everything the guard is told.  Bytes are bytes, times are seconds."""

    instance: Instance
    """``SLUG.REPLICA``, the unit's name after ``mlx-model@``; of a rank above 0
    ``SLUG.REPLICA.RANK``, after ``mlx-rank@``."""
    slug: Slug
    served_name: Annotated[str, StringConstraints(min_length=1)]
    """The only value of ``model`` that a request may carry."""
    engine: str = "mlx"
    """A module of ``guard/engines``."""
    runtime: AbsolutePath
    """The engine's virtual environment; its ``bin/python`` runs engine and tokenizer."""
    model: AbsolutePath
    """The immutable snapshot directory, a canonical path (the engine keys models by spelling)."""

    context_tokens: Annotated[int, Field(ge=16)]
    """Prompt and answer of one request together."""
    concurrency: Annotated[int, Field(ge=1)]
    """Sequences that the engine is given at once."""
    waiting: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait for a place; one more gets 429."""
    prompt_concurrency: Annotated[int, Field(ge=1)]
    decode_concurrency: Annotated[int, Field(ge=1)]
    """Sequences that it generates for together; at least ``concurrency``."""
    prefill_step: Annotated[int, Field(ge=1)] = 2048
    prompt_cache_entries: Annotated[int, Field(ge=0)] = 0

    """Prefixes kept for reuse; 0 keeps none."""
    prompt_cache_bytes: Annotated[int, Field(gt=0)] | None = None
    """Bound of what the kept prefixes take together."""

    memory_limit_bytes: Annotated[int, Field(gt=0)] | None = None
    """MLX's limit; ``None`` leaves MLX's own (0.95 of the whole device)."""
    cache_limit_bytes: Annotated[int, Field(ge=0)] | None = None
    """MLX's cache of freed buffers; ``None`` leaves MLX's own (as large as the limit)."""
    planned_bytes: Annotated[int, Field(gt=0)] | None = None
    """What the plan says this instance takes, for the metrics and for the wait for a free GPU."""
    gpu_uuids: tuple[str, ...] = ()
    """Empty on a CPU."""

    socket: AbsolutePath
    run_dir: AbsolutePath
    cache_dir: AbsolutePath
    inputs: Annotated[str, StringConstraints(min_length=1)]
    """The digest of all that this instance is made of, told back in ``run_dir/inputs``."""

    start_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence while starting: no bytes read, no token.  Not the length of the start."""
    stop_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long requests in flight may take to end after SIGTERM."""
    hang_floor_s: Annotated[float, Field(gt=0)] = 20.0
    """Silence of all streams that is always allowed, besides what the plan's work takes."""
    compile_allowance_s: Annotated[float, Field(ge=0)] = 120.0
    """Added where a shape runs for the first time: kernels are being compiled."""
    probe_interval_s: Annotated[float, Field(gt=0)] = 30.0
    """After so long without a sign one token is generated to see whether it still can be."""
    slow_client_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a client's full buffer is waited for."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 << 20
    """At most; a short context lets in less (``body_limit``)."""
    engine_environment: dict[EngineVariable, str] = {}
    """More of MLX's, NCCL's or CUDA's variables for the engine."""
    group: Group | None = None
    """For a rank of several; ranks above 0 have no API."""

    @field_validator("decode_concurrency")
    @classmethod
    def _all_are_generated_for(cls, decode_concurrency: int, others: ValidationInfo) -> int:
        """One more would wait inside the engine, silent, and count as forgotten there."""
        concurrency = others.data.get("concurrency", 0)
        if decode_concurrency < concurrency:
            raise ValueError(f"{decode_concurrency} is less than `concurrency` ({concurrency})")
        return decode_concurrency

    @field_validator("engine")
    @classmethod
    def _engine_is_known(cls, engine: str) -> str:
        if engine not in ENGINES:
            raise ValueError(f"no such engine: `{engine}`; there are: {', '.join(ENGINES)}")
        return engine

    @property
    def body_limit(self) -> int:
        """Bytes of a request's body: what fills the context is shorter, escaped as JSON or not."""
        return min(self.max_body_bytes, BODY_BYTES + TOKEN_BYTES * self.context_tokens)


def load(path: Path) -> Config:
    """Read and check the configuration; raises ConfigError with every mistake named."""
    try:
        text = path.read_text(encoding="utf-8")
        # As Python data first: pydantic's strict mode is laxer about JSON (tuples from lists).
        json.loads(text)
        return Config.model_validate_json(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        mistakes = "; ".join(
            f"`{'.'.join(map(str, mistake['loc']))}`: {mistake['msg'].lower()}"
            for mistake in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"{path}: {mistakes}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
