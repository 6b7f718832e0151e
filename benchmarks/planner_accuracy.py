# ruff: noqa: PLC0415 -- the parent process of a measurement has no MLX in it
"""Predicted memory beside MLX's own, on the real batch generator, for small random models.

    python benchmarks/planner_accuracy.py [--write docs/evidence/planner-accuracy.md] [NAME …]

Each architecture is made small and random, written as a checkpoint, traced through the planner from
its header alone, then loaded and served by the batch generator of the installed mlx-lm on the CPU
with the prompt cache of its server (finished sequences evaluated when they are kept, as the guard's
launcher does). Compared are MLX's active memory after loading and while it generates, and its
peak, in four scenarios. One process for each architecture, so that none sees another's buffers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

LAG = 110
# call at which a request arrives, tokens of its prompt, tokens of its answer
SCENARIOS = {
    "one sequence": ((1, 1, 256, 2), [(0, 700, 24)]),
    "eight, staggered": (
        (8, 4, 256, 4),
        [(0, 300, 60), (0, 90, 40), (0, 520, 50), (2, 700, 40), (4, 40, 70), (5, 410, 30),
         (6, 256, 30), (7, 333, 30)],
    ),
    "past the window": ((2, 2, 256, 2), [(0, 1500, 12), (0, 900, 12)]),
    "exact 256s and one more": ((3, 3, 256, 2), [(0, 512, 10), (0, 513, 10), (0, 256, 10)]),
}  # fmt: skip


def one(name: str) -> dict[str, object]:
    """Every scenario for one architecture."""
    import mlx.core as mx
    import planner_models
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import load_model

    from hub.checkpoint import write_hollow
    from hub.making import _local_header
    from planner.demand import Settings
    from planner.hollow import program
    from planner.hollow.__main__ import trace
    from planner.replay import replay
    from planner.traced import Rank, Traced

    mx.set_default_device(mx.cpu)
    config = planner_models.config(name)
    with tempfile.TemporaryDirectory() as directory:
        real, hollow = Path(directory, "real"), Path(directory, "hollow")
        real.mkdir()
        hollow.mkdir()
        made = planner_models.model(name, config)
        made.update(
            tree_map(
                lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p,
                made.parameters(),
            )
        )
        mx.save_safetensors(str(real / "model.safetensors"), dict(tree_flatten(made.parameters())))
        del made
        for place in (real, hollow):
            (place / "config.json").write_text(json.dumps(config))
        write_hollow(hollow / "model.safetensors", _local_header(real / "model.safetensors"))
        with program.cpu():
            traced = Traced.from_json(trace(hollow, [1], gpu=False))
        rank = traced.rank(1)
        assert isinstance(rank, Rank)
        mx.synchronize()
        mx.clear_cache()
        base = mx.get_active_memory()
        model, _ = load_model(real)
        mx.synchronize()
        weights = mx.get_active_memory() - base
        rows = {}
        for title, (told, requests) in SCENARIOS.items():
            decode, prompts, step, entries = told
            if traced.alone:
                return {"name": name, "skipped": f"served one at a time: {traced.alone}"}
            settings = Settings(
                decode_concurrency=decode,
                prompt_concurrency=prompts,
                prefill_step=step,
                prompt_cache_entries=entries,
            )
            seen = serve(model, settings, requests, base)
            said = list(replay(traced, rank, settings, requests, lag=LAG))
            assert len(seen) == len(said), (len(seen), len(said))
            settled = [
                (real, moment.held)
                for (real, _), moment in zip(seen, said, strict=True)
                if moment.settled and moment.alive
            ]
            rows[title] = {
                "least": min(settled, key=lambda it: it[1] / it[0]),
                "most": max(settled, key=lambda it: it[1] / it[0]),
                "peak": [max(peak for _, peak in seen), max(m.peak for m in said)],
            }
        fitted = sorted(n for n, p in traced.programs.items() if p.fitted)
        return {"name": name, "weights": [weights, rank.weights], "rows": rows, "fitted": fitted}


def serve(model, settings, requests, base) -> list[tuple[int, int]]:
    """MLX's active and peak memory after each call, as the server's thread would make them."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import LRUPromptCache

    generator = BatchGenerator(
        model,
        completion_batch_size=settings.decode_concurrency,
        prefill_batch_size=settings.prompt_concurrency,
        prefill_step_size=settings.prefill_step,
    )
    kept = LRUPromptCache(max_size=settings.prompt_cache_entries)
    arriving = sorted(requests)
    seen = []
    busy = 0
    call = 0
    mx.clear_cache()
    mx.reset_peak_memory()
    while arriving or busy:
        while arriving and arriving[0][0] <= call:
            _, prompt, answer = arriving.pop(0)
            # Prompts that share nothing: a prefix in common would be dropped from the cache.
            tokens = [(7 * len(arriving) + i) % 500 + 1 for i in range(prompt)]
            generator.insert([tokens], [answer])
            busy += 1
        call += 1
        _, responses = generator.next()
        for response in responses:
            if response.finish_reason is not None:
                busy -= 1
                mx.eval([cache.state for cache in response.prompt_cache])
                kept.insert_cache("model", response.all_tokens[:], response.prompt_cache)
                response.prompt_cache = None
        del responses
        mx.synchronize()
        mx.synchronize(generator.stream)
        seen.append((mx.get_active_memory() - base, mx.get_peak_memory() - base))
    generator.close()
    del generator, kept
    mx.clear_cache()
    return seen


def table(results: list[dict[str, object]]) -> str:
    """The results as a page."""
    lines = [
        "| architecture | weights | " + " | ".join(SCENARIOS) + " |",
        "|---|---|" + "---|" * len(SCENARIOS),
    ]
    for result in results:
        if "rows" not in result:
            continue
        cells = [_over(*result["weights"])]
        for title in SCENARIOS:
            row = result["rows"][title]
            held = f"{_over(*row['least'])} to {_over(*row['most'])}"
            cells.append(f"{held}; peak {_over(*row['peak'])}")
        note = " (fitted)" if result["fitted"] else ""
        lines.append(f"| {result['name']}{note} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _over(real: int, said: int) -> str:
    return f"{100 * (said - real) / real:+.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--one")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one)))
        return
    import planner_models

    results = []
    for name in asked.names or planner_models.names():
        run = subprocess.run(
            [sys.executable, __file__, "--one", name],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        last = run.stdout.strip().rpartition("\n")[2]
        if run.returncode or not last.startswith("{"):
            reason = run.stderr.strip().rpartition("\n")[2]
            print(f"{name}: {reason[:160]}", file=sys.stderr)
            results.append({"name": name, "skipped": reason})
            continue
        result = json.loads(last)
        results.append(result)
        print(table([result]).rpartition("\n")[2], file=sys.stderr, flush=True)
    page = table(results)
    print(page)
    if asked.write:
        asked.write.write_text(page + "\n")


if __name__ == "__main__":
    main()
