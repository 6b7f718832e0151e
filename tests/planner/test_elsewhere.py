"""What other engines could do: by their lists, and by the compute capability that is there."""

import pytest

from planner.elsewhere import elsewhere
from planner.plan import Space
from planner.traced import Traced

GIB = 2**30


def traced(model_type, parameters):
    return Traced(
        mlx_lm="0.32.2",
        mlx="0.32.4",
        model_type=model_type,
        layers=48,
        parameters=int(parameters),
        alone="",
        context_max=131072,
        head_dims=(192, 128),
        dtype="bfloat16",
        logits_row_bytes=256,
        loading=0,
        programs={},
        ranks={},
    )


def lines(model_type, parameters, capability, total=96 * GIB):
    gpus = [
        Space(
            host="h",
            gpu=gpu,
            name="a card",
            compute_capability=capability,
            total=total,
            usable=int(total * 0.95),
        )
        for gpu in range(2)
    ]
    said = elsewhere(traced(model_type, parameters), GIB, gpus)
    return dict(line.split(": ", 1) for line in said)


def test_mimo_v2_flash_on_two_cards_of_96_gib_takes_4_bits():
    """Three have it, each in what its list of formats has under 4.7 bits."""
    said = lines("mimo_v2_flash", 309e9, "12.0")
    assert said["vLLM"].startswith("NVFP4, ")
    assert said["SGLang"].startswith("NVFP4, ")
    assert said["llama.cpp"].startswith("GGUF Q4_K_S, ")
    assert said["TensorRT-LLM"].startswith("not known to run `mimo_v2_flash`")


@pytest.mark.parametrize(
    ("capability", "vllm", "sglang", "tensorrt"),
    [
        ("7.5", "FP8, ", "AWQ 4-bit, ", "has no format for compute capability 7.5"),
        ("8.6", "FP8, ", "FP8, ", "AWQ 4-bit, "),
        ("8.9", "FP8, ", "FP8, ", "FP8, "),
        ("12.0", "FP8, ", "FP8, ", "FP8, "),
    ],
)
def test_a_format_is_taken_where_the_engine_has_it(capability, vllm, sglang, tensorrt):
    """One of 70 * 10^9 weights: too large for two of 48 GiB in 16 bits."""
    said = lines("llama", 70e9, capability, total=48 * GIB)
    assert said["vLLM"].startswith(vllm)
    assert said["SGLang"].startswith(sglang)
    assert said["TensorRT-LLM"].startswith(tensorrt)


def test_tensor_parallelism_is_over_a_number_that_divides_heads():
    """Of three cards two, and of two kinds one, with as much on each; layers lie on all."""

    def said(*gib):
        gpus = [
            Space(host="h", gpu=at, name=f"a card of {size}", compute_capability="8.9",
                  total=size * GIB, usable=size * GIB)
            for at, size in enumerate(gib)
        ]  # fmt: skip
        told = elsewhere(traced("llama", 70e9), GIB, gpus)
        return dict(line.split(": ", 1) for line in told)

    assert " of 43.2 GiB over 2 of the GPUs with " in said(24, 24, 24)["vLLM"]
    assert " of 64.8 GiB over the GPUs with " in said(24, 24, 24)["llama.cpp"]
    assert " 43.2 GiB over 1 of the GPUs" in said(48, 24)["vLLM"]
    assert " of 64.8 GiB over the GPUs with " in said(48, 24)["llama.cpp"]


def test_no_awq_on_blackwell_from_tensorrt():
    """Where NVFP4 is too large it has nothing smaller; vLLM has."""
    said = lines("llama", 166e9, "12.0", total=48 * GIB)
    assert said["vLLM"].startswith("AWQ 4-bit, ")
    assert said["TensorRT-LLM"].startswith("no: ")
    assert "NVFP4" in said["TensorRT-LLM"]
