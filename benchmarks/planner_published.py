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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import planner_models
from published_models import EIGHT, MODELS

# Peaks that others measured, in bytes, with the tokens of the prompt and whether attention was one
# kernel: github.com/ml-explore/mlx, pulls 2843 (8B; 2025-11) and 3077 (Qwen3; 2026-01).
MEASURED = {
    "Llama-3.1-8B": ((32000, True, 23.1e9), (32000, False, 37.7e9)),
    "Qwen3-4B": ((1024, True, 10.0e9),),
    "Qwen3-30B-A3B": ((1024, True, 64.2e9),),
}


PAGE = """\
# What well-known models take

Made by `benchmarks/planner_published.py --write`: the numbers of each published `config.json`,
headers made from mlx-lm's own classes with the quantization that the name says (no hub could be
reached). FP8 checkpoints are made 16-bit when they are loaded, twice their files.

{weights}

Peaks that others measured on an H100 (github.com/ml-explore/mlx, pulls 2843 and 3077), none of
which sets a constant here. Ours is for one sequence, without the 2 GiB that are set aside for a
process.

{peaks}

Ours takes MLX to run as far ahead of the GPU as it may: 11 command buffers, each closed after
1000 MB read or 100 kernels. So it is to be above; no figure was fitted to these peaks. Attention
in steps is where it matters: of Llama's kernels at 32,000 tokens each that touches the scores
reads 4.2 GB, three in a layer, and closes a buffer by itself, so that MLX is less than four
layers ahead and four layers' scores, 17 GB, are there at once. Where ours is below, the 2 GiB
cover it; what takes it is not known.
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

        nn.quantize(made, **quantization, class_predicate=wanted)
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
        answer = tracing.trace(texts, headers)
        if isinstance(answer, str):
            print(f"{name}: {answer}", file=sys.stderr)
            continue
        source = f"published/{name}@{'0' * 40}"
        entries[source] = locks.Entry(
            source=source,
            files=(),
            checkpoint=summary(texts, headers, published=False),
            traces={answer.mlx_lm: answer},
        )
        locks.write(locks.Lock(models=entries), path)
        print(f"{name}: {answer.rank(1).weights} bytes of weights", file=sys.stderr)


def page(path: Path) -> str:
    """What each takes at 32,768 tokens, and the peaks that others measured beside ours."""
    from hub import lock as locks
    from planner.demand import CUDA, Settings, entry_bytes, sequence_bytes, work

    known = locks.read(path).models
    lines = [
        "| model | weights, bytes | KV of one sequence at 32,768 tokens, bytes | over 2 ranks |",
        "|---|---|---|---|",
    ]
    for name in MODELS:
        entry = known.get(f"published/{name}@{'0' * 40}")
        if entry is None:
            continue
        (answer,) = entry.traces.values()
        two = answer.rank(2)
        half = two if isinstance(two, str) else f"{two.weights:,} each"
        kv = entry_bytes(answer.rank(1), 32768, 1)
        lines.append(f"| {name} | {answer.rank(1).weights:,} | {kv:,} | {half} |")
    peaks = [
        "| model, prompt | attention | measured, GB | ours, GB | more | weights, KV, work |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in MEASURED.items():
        entry = known.get(f"published/{name}@{'0' * 40}")
        if entry is None:
            continue
        (answer,) = entry.traces.values()
        for tokens, fused, measured in rows:
            settings = Settings(
                prompt_concurrency=1,
                decode_concurrency=1,
                prefill_step=min(2048, answer.longest_step or 2048),
                prompt_cache_entries=0,
            )
            kv = sequence_bytes(answer.rank(1), tokens, settings.prefill_step)
            parts = work(answer, answer.rank(1), settings, tokens, CUDA, fused=fused)
            most = max(parts.values())
            ours = answer.rank(1).weights + kv + most
            peaks.append(
                f"| {name}, {tokens} | {'fused' if fused else 'in steps'} | {measured / 1e9:.1f} "
                f"| {ours / 1e9:.1f} | {ours / measured - 1:+.1%} | "
                f"{answer.rank(1).weights / 1e9:.1f}, {kv / 1e9:.1f}, {most / 1e9:.1f} |"
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
