"""Other engines, for what MLX cannot serve: which, in which format, by how much memory.

Support is by model type, each with where it was said; what is not listed is not claimed. Bits a
weight are of the format itself, scales included: FP8 8.0; AWQ in groups of 128 with 16-bit scales
and 4-bit zeros 4.16; NVFP4 in groups of 16 with 8-bit scales 4.5; GGUF Q4_K_M about 4.85
(github.com/ggml-org/llama.cpp, tools/quantize/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.amounts import gib
from planner.plan import Space
from planner.record import Record
from planner.traced import Traced

# Kept free on each GPU for the engine itself; vLLM's default leaves a tenth (its
# `--gpu-memory-utilization 0.9`), the others are given the same.
SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Record):
    """How weights are stored, and from which compute capability on an engine runs them."""

    name: str
    bits: float
    capability: float
    capability_up_to: float = 99.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Record):
    """An engine, what it reads, and the model types that it was said to run."""

    name: str
    formats: tuple[Format, ...]  # the best first
    splits: str  # over several GPUs
    supports: dict[str, str]  # model type: where that is said


BF16 = Format(name="bf16", bits=16, capability=8.0)
FP8 = Format(name="FP8", bits=8, capability=8.9)
AWQ = Format(name="AWQ 4-bit", bits=4.16, capability=7.5)
NVFP4 = Format(name="NVFP4", bits=4.5, capability=10.0)
GGUF8 = Format(name="GGUF Q8_0", bits=8.5, capability=7.5)
GGUF4 = Format(name="GGUF Q4_K_M", bits=4.85, capability=7.5)
GGUF4S = Format(name="GGUF Q4_K_S", bits=4.58, capability=7.5)
GGUF3 = Format(name="GGUF Q3_K_M", bits=3.91, capability=7.5)

_COMMON = (
    "llama", "mistral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma2", "gemma3",
    "gemma3_text", "phi3", "gpt_oss", "deepseek_v3", "glm4", "glm4_moe", "olmo2", "olmoe",
    "qwen3_next", "minimax", "granite", "cohere2", "seed_oss", "nemotron_h",
)  # fmt: skip


def _listed(where: str, *more: str) -> dict[str, str]:
    return dict.fromkeys((*_COMMON, *more), where)


ENGINES = (
    Engine(
        name="vLLM",
        formats=(BF16, FP8, NVFP4, AWQ),
        splits="tensor parallel",
        supports=_listed("docs.vllm.ai, supported models")
        | {"mimo_v2_flash": "github.com/vllm-project/vllm, pull 30836"},
    ),
    Engine(
        name="SGLang",
        formats=(BF16, FP8, NVFP4, AWQ),
        splits="tensor parallel",
        supports=_listed("docs.sglang.ai, supported models")
        | {"mimo_v2_flash": "github.com/sgl-project/sglang, pull 15207"},
    ),
    Engine(
        name="llama.cpp",
        formats=(GGUF8, GGUF4, GGUF4S, GGUF3),
        splits="layers over the GPUs",
        supports=_listed("github.com/ggml-org/llama.cpp, README.md")
        | {"mimo_v2_flash": "github.com/ggml-org/llama.cpp, pull 18328"},
    ),
    Engine(
        name="TensorRT-LLM",
        formats=(BF16, FP8, NVFP4, AWQ),
        splits="tensor parallel",
        supports=dict.fromkeys(
            ("llama", "mixtral", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3", "gpt_oss"),
            "nvidia.github.io/TensorRT-LLM, support matrix",
        ),
    ),
)


def elsewhere(traced: Traced, kv_bytes: int, spaces: Sequence[Space]) -> tuple[str, ...]:
    """One line for each engine: in which format it could serve the model on these GPUs, or not.

    ``kv_bytes`` are the caches of all sequences together.
    """
    gpus = [space for space in spaces if space.gpu is not None and space.compute_capability]
    if not gpus:
        return ()
    capability = min(float(space.compute_capability or 0) for space in gpus)
    room = int(sum(min(space.usable, space.total * SHARE) for space in gpus))
    lines: list[str] = []
    for engine in ENGINES:
        said = engine.supports.get(traced.model_type)
        if said is None:
            lines.append(f"{engine.name}: not known to run `{traced.model_type}`")
            continue
        lines.append(
            f"{engine.name}: {_best(engine, capability, traced.parameters, kv_bytes, room)}"
        )
    return tuple(lines)


def _best(engine: Engine, capability: float, parameters: int, kv_bytes: int, room: int) -> str:
    tried: list[tuple[Format, int]] = [
        (form, int(parameters * form.bits / 8) + kv_bytes)
        for form in engine.formats
        if form.capability <= capability <= form.capability_up_to
    ]
    for form, size in tried:
        if size <= room:
            return (
                f"{form.name}, {gib(size)} of {gib(room)} over the GPUs with nothing else on them "
                f"({engine.splits}); take a {form.name} checkpoint: it cannot read MLX's files"
            )
    if not tried:
        return f"has no format for compute capability {capability}"
    form, size = min(tried, key=lambda it: it[1])
    return f"no: {gib(size)} in {form.name}, {gib(room)} over the GPUs"
