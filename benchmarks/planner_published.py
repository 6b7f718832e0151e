# ruff: noqa: PLC0415 -- the parent process of a measurement has no MLX in it
"""Well-known models as their makers published them, hollow: what each takes.

    python benchmarks/planner_published.py [--write docs/evidence/planner-published.md]
    python benchmarks/planner_published.py --lock inventories/example.lock

The numbers are those of each model's published `config.json` (``published_models.py``). The header
of the checkpoint is not the published one (no hub can be reached from where this was made): it is
made from mlx-lm's own classes with the quantization that the name says, so that shapes and types
are those that mlx-lm writes. The lock says so (`published: false`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import planner_models
from benchmarks.published_models import EIGHT, MODELS

if TYPE_CHECKING:
    from planner.traced import Traced

# Peaks that others measured: of what model, tokens of the prompt, whether attention was one kernel,
# the card, what closed its command buffers then (kernels, and 2**20 elements read), bytes.
# github.com/ml-explore/mlx, pulls 2843 (8B; 2025-11) and 3077 (Qwen3; 2026-01), of which the latter
# measured before and after it raised those limits. The former does not say what they were.
MEASURED = (
    ("Llama-3.1-8B", 32000, True, "H100", (30, 400), 23.1e9),
    ("Llama-3.1-8B", 32000, False, "H100", (30, 400), 37.7e9),
    ("Qwen3-4B", 1024, True, "H100", (30, 400), 9.545e9),
    ("Qwen3-4B", 1024, True, "B200", (50, 500), 9.332e9),
    ("Qwen3-4B", 1024, True, "H100", (100, 1000), 10.007e9),
    ("Qwen3-4B", 1024, True, "B200", (100, 1000), 9.787e9),
    ("Qwen3-30B-A3B", 1024, True, "H100", (30, 400), 62.217e9),
    ("Qwen3-30B-A3B", 1024, True, "B200", (50, 500), 62.715e9),
    ("Qwen3-30B-A3B", 1024, True, "H100", (100, 1000), 64.219e9),
    ("Qwen3-30B-A3B", 1024, True, "B200", (100, 1000), 64.219e9),
)


PAGE = """\
# What well-known models take

Made by `benchmarks/planner_published.py --write`: the numbers of each published `config.json`,
headers made from mlx-lm's own classes with the quantization that the name says (no hub could be
reached). FP8 checkpoints are made 16-bit when they are loaded, twice their files.

{weights}

Peaks that others measured (github.com/ml-explore/mlx, pulls 2843 and 3077), none of which sets a
constant here. Ours is for one sequence, without the 2 GiB that are set aside for a process; its
parts are weights, KV and work.

{peaks}

Ours takes MLX to run as far ahead of the GPU as it may: 11 command buffers, each closed after so
many kernels or so many elements read (`limits`: MLX calls 2**20 elements a megabyte, whatever they
take). MLX 0.32 has 100 and 1000 for these cards; pull 3077 measured before and after it set them,
and pull 2843 is taken to have had what was there before. Where the GPU is slow beside Python, as
with the experts of Qwen3-30B-A3B, MLX is as far ahead as that, the peak is the same on two cards,
and ours is within 0.2 % of it, with each of three limits; that it is not above may be cuBLAS's
workspaces, which no graph shows and for which there are the 2 GiB. Where the GPU is quick
(Qwen3-4B), Python falls behind, the peak differs from card to card, and ours is above. Attention in
steps is where it matters most: of Llama's kernels at 32,000 tokens each that touches the scores
reads 2.1 billion elements and closes a buffer by itself, so that MLX is less than four layers
ahead, and four layers' scores, 17 GB, are there at once.
"""


def header(name: str) -> dict[str, Any]:
    """The header that mlx-lm would write for a model; nothing is evaluated."""
    import importlib

    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_map

    config = MODELS[name]
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    made = module.Model(module.ModelArgs.from_dict(config))

    def bf16(array: mx.array) -> mx.array:
        return array.astype(mx.bfloat16) if mx.issubdtype(array.dtype, mx.floating) else array

    made.update(tree_map(bf16, made.parameters()))
    if quantization := config.get("quantization"):
        predicate = getattr(made, "quant_predicate", None)
        group = quantization["group_size"]

        def wanted(path: str, layer: Any) -> Any:
            if not hasattr(layer, "to_quantized") or layer.weight.shape[-1] % group:
                return False
            if quantization["mode"] == "mxfp4" and "experts" not in path:
                return EIGHT if layer.weight.shape[-1] % 64 == 0 else False
            return predicate(path, layer) if predicate else True

        nn.quantize(made, **quantization, class_predicate=wanted)  # type: ignore[attr-defined]
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    eight = config.get("quantization_config", {}).get("quant_method") == "fp8"
    for path, kind, shape in planner_models.tensors(made):
        if eight and path.endswith("_proj.weight"):
            tensors += [(path, "F8_E4M3", shape), (f"{path}_scale_inv", kind, ())]
        else:
            tensors.append((path, kind, shape))
    return planner_models.lay_out(tensors)


def checkpoint(name: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The model's texts and headers; these come from a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--header", name], capture_output=True, text=True, check=True
    )
    headers = {"model.safetensors": json.loads(run.stdout)}
    config = {**MODELS[name], "architectures": [MODELS[name]["model_type"]]}
    return {"config.json": json.dumps(config).encode()}, headers


def lock(path: Path, names: list[str]) -> None:
    """Write a lock of ``names``, each under ``published/NAME``."""
    from hub import lock as locks
    from hub import tracing
    from hub.making import summary

    entries = dict(locks.read(path).models)
    for name in names:
        texts, headers = checkpoint(name)
        answer = tracing.trace(texts, headers, "older gpu")  # what newer ones ask is in it, too
        if isinstance(answer, str):
            print(f"{name}: {answer}", file=sys.stderr)
            continue
        source = f"published/{name}@{'0' * 40}"
        entries[source] = locks.Entry(
            source=source,
            files=(),
            checkpoint=summary(texts, headers, published=False),
            traces={locks.trace_key(on, answer.mlx_lm): answer for on in ("gpu", "older gpu")},
        )
        locks.write(locks.Lock(models=entries), path)
        print(f"{name}: {answer.rank(1).weights} bytes of weights", file=sys.stderr)


def foreseen(
    answer: Traced, tokens: int, limits: tuple[int, int], *, fused: bool
) -> tuple[int, int, int]:
    """Bytes of weights, KV and work at the peak of one prompt, with such command buffers."""
    from planner.demand import CUDA, Settings, buffers, sequence_bytes, work

    whole = answer.rank(1)
    assert not isinstance(whole, str), whole
    settings = Settings(
        prompt_concurrency=1,
        decode_concurrency=1,
        prefill_step=min(2048, answer.longest_step or 2048),
        prompt_cache_entries=0,
    )
    device = replace(CUDA, behind=buffers(*limits))
    parts = work(answer, whole, settings, tokens, device, fused=fused)
    kv = sequence_bytes(whole, tokens, settings.prefill_step)
    return whole.weights, kv, max(parts.values())


def page(path: Path) -> str:
    """What each takes at 32,768 tokens, and the peaks that others measured beside ours."""
    from hub import lock as locks
    from planner.demand import entry_bytes

    known = locks.read(path).models
    lines = [
        "| model | weights, bytes | KV of one sequence at 32,768 tokens, bytes | over 2 ranks |",
        "|---|---|---|---|",
    ]
    for name in MODELS:
        entry = known.get(f"published/{name}@{'0' * 40}")
        if entry is None:
            continue
        answer = next(iter(entry.traces.values()))
        two = answer.rank(2)
        half = two if isinstance(two, str) else f"{two.weights:,} each"
        kv = entry_bytes(answer.rank(1), 32768, 1)
        lines.append(f"| {name} | {answer.rank(1).weights:,} | {kv:,} | {half} |")
    peaks = [
        "| model, prompt | attention | card, limits | measured, GB | ours, GB | more | parts, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, tokens, fused, card, limits, measured in MEASURED:
        entry = known.get(f"published/{name}@{'0' * 40}")
        if entry is None:
            continue
        answer = next(iter(entry.traces.values()))
        parts = foreseen(answer, tokens, limits, fused=fused)
        ours = sum(parts)
        peaks.append(
            f"| {name}, {tokens} | {'fused' if fused else 'in steps'} | {card}, "
            f"{limits[0]} and {limits[1]} | {measured / 1e9:.1f} "
            f"| {ours / 1e9:.1f} | {ours / measured - 1:+.1%} | "
            f"{', '.join(f'{part / 1e9:.1f}' for part in parts)} |"
        )
    return PAGE.format(weights="\n".join(lines), peaks="\n".join(peaks))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--header")
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    if asked.header:
        print(json.dumps(header(asked.header)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = asked.lock or Path(directory, "models.lock")
        lock(path, asked.names or list(MODELS))
        made = page(path)
    print(made)
    if asked.write:
        asked.write.write_text(made)


if __name__ == "__main__":
    main()
