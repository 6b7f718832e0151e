"""Other engines: what each reads, on which GPUs, and which model types are in its own list.

Each list is the engine's registry of architectures; a model type counts where the architecture of
its checkpoints is in it. Nobody ran these models here. docs/evidence/other-engines.md has each
file that was read, and what was left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.record import Record

TENSOR_PARALLEL = "tensor parallel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Record):
    """How weights are stored, and on which compute capabilities an engine runs them.

    ``bits`` are those of a weight in this format, scales included. What a checkpoint keeps in 16
    bits, often the embeddings, comes on top.
    """

    name: str
    bits: float
    capability: float
    capability_up_to: float = 99.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Record):
    """An engine, what it reads, and the model types in its list."""

    name: str
    seen: str  # of which the list was read
    formats: tuple[Format, ...]  # the best first
    splits: str  # over several GPUs
    supports: frozenset[str]


# The names of the engines, then the model types that exactly these have.
_LISTED = {
    "vLLM SGLang llama.cpp TensorRT-LLM": (
        "afmoe cohere2 deepseek_v2 deepseek_v3 exaone exaone4 exaone_moe gemma3 gemma3_text "
        "gemma3n gemma4 gemma4_text gemma4_unified glm4_moe glm4_moe_lite gpt_oss granite "
        "granitemoehybrid hunyuan_v1_dense internlm3 kimi_k2 kimi_k25 kimi_k3 kimi_linear "
        "laguna llama llama4 minimax_m2 minimax_m3_vl mistral mistral3 mixtral nemotron-nas "
        "nemotron_h phi3 qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe "
        "qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe starcoder2 step3p5"
    ),
    "vLLM SGLang llama.cpp": (
        "apertus bailing_moe cohere dbrx deepseek ernie4_5_moe falcon_h1 falcon_mamba gemma "
        "gemma2 glm4 gpt2 gpt_bigcode granitemoe internlm2 iquestcoder kimi_vl lfm2 lfm2_moe "
        "llama4_text mamba mamba2 mellum mimo_v2_flash minicpm minicpm3 ministral3 muse_glimmer "
        "nanbeige olmo olmo2 olmoe phi phimoe stablelm"
    ),
    "vLLM llama.cpp TensorRT-LLM": "nemotron olmo3 seed_oss smollm3",
    "vLLM llama.cpp": "ernie4_5 glm gpt_neox jamba plamo3",
    "vLLM SGLang": "bailing_hybrid gptj longcat_flash mimo muse_spark",
    "SGLang llama.cpp": "spark2_5",
    "vLLM": "longcat_flash_ngram olmo_hybrid",
    "llama.cpp": "bitnet deepseek_v32 dots1 glm_moe_dsa solar_open",
}


def _listed(engine: str) -> frozenset[str]:
    return frozenset(
        model_type
        for engines, model_types in _LISTED.items()
        if engine in engines.split()
        for model_type in model_types.split()
    )


def _bf16() -> Format:
    return Format(name="bf16", bits=16, capability=8.0)


def _fp8(capability: float) -> Format:
    """8 bits; the scales of whole tensors or of blocks of 128 x 128 add next to nothing."""
    return Format(name="FP8", bits=8, capability=capability)


def _nvfp4(capability: float) -> Format:
    """4 bits, and a scale of 8 for each 16 weights."""
    return Format(name="NVFP4", bits=4.5, capability=capability)


def _awq(capability: float, capability_up_to: float = 99.0) -> Format:
    """4 bits, and a scale of 16 and a zero of 4 for each 128 weights."""
    return Format(
        name="AWQ 4-bit", bits=4.16, capability=capability, capability_up_to=capability_up_to
    )


def _gguf(name: str, bits: float) -> Format:
    """As measured on Llama 3.1 8B. Under 7.5 it takes a build with CUDA 12."""
    return Format(name=f"GGUF {name}", bits=bits, capability=5.0)


ENGINES = (
    Engine(
        name="vLLM",
        seen="release 0.33.0",
        # Under 8.9 FP8, and under 10.0 NVFP4, are weights only (Marlin).
        formats=(_bf16(), _fp8(7.5), _nvfp4(7.5), _awq(7.5)),
        splits=TENSOR_PARALLEL,
        supports=_listed("vLLM"),
    ),
    Engine(
        name="SGLang",
        seen="release 0.5.23",
        # The same; from ModelOpt, FP8 needs 8.9.
        formats=(_bf16(), _fp8(8.0), _nvfp4(8.0), _awq(7.5)),
        splits=TENSOR_PARALLEL,
        supports=_listed("SGLang"),
    ),
    Engine(
        name="llama.cpp",
        seen="commit 0c1e57098",
        formats=(
            _gguf("Q8_0", 8.5),
            _gguf("Q4_K_M", 4.89),
            _gguf("Q4_K_S", 4.67),
            _gguf("Q3_K_M", 4.0),
        ),
        splits="layers over the GPUs",
        supports=_listed("llama.cpp"),
    ),
    Engine(
        name="TensorRT-LLM",
        seen="commits 00b6d5a and 065ff9e",
        # No FP4 before Blackwell, no AWQ on it.
        formats=(_bf16(), _fp8(8.9), _nvfp4(10.0), _awq(8.0, 9.0)),
        splits=TENSOR_PARALLEL,
        supports=_listed("TensorRT-LLM"),
    ),
)
