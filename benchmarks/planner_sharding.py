# ruff: noqa: PLC0415 -- the parent process of a measurement has no MLX in it
"""What a rank takes by the trace, beside what real ranks take over the ring back end on the CPU.

    python benchmarks/planner_sharding.py [--write docs/evidence/planner-sharding.md] NAME …

For architectures that have `shard`, in groups of 2, 4 and 8: a rank of the trace (a stand-in for
the group, nothing evaluated) against `sharded_load` and one chunk of a prompt in so many processes
on loopback. Where the trace refuses, the real ranks must fail. Rows of a page that is there already
are kept, those of the named architectures are measured anew.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SIZES = (2, 4, 8)
TOKENS = 512
LIMIT = 300  # seconds for real ranks
# So that 8 ranks have something each; some have 4 heads for keys and values, which 8 do not divide.
WIDE = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 256,
    "head_dim": 32,
    "intermediate_size": 512,
    "vocab_size": 512,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 2,
}

PAGE = """\
# Ranks of the trace beside real ones

Made by `benchmarks/planner_sharding.py`: small models over MLX's ring back end on loopback, one
process a rank, on the CPU; every architecture whose module has `shard`. The figure in brackets is
how far the prediction of the weights is from MLX's active memory after loading.

{rows}
"""


def rank(directory: str) -> None:
    """One real rank: what MLX counts after loading, and its caches after a chunk."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    from planner.hollow import model as hollow

    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(strict=True, backend="ring")
    before = mx.get_active_memory()
    model, _ = load_model(Path(directory), lazy=True, strict=False)
    if not hasattr(model, "shard"):
        raise ValueError("no `shard`")
    model.shard(group)
    mx.eval(model.parameters())
    mx.synchronize()
    weights = mx.get_active_memory() - before
    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, TOKENS), mx.int32), cache=cache))
    mx.synchronize()
    caches = sum(a.nbytes for it in hollow.leaves(cache) for a in hollow.arrays(it))
    print(json.dumps({"weights": weights, "caches": caches}))


def real(directory: Path, size: int) -> dict[str, int] | str:
    """What the first of ``size`` real ranks says, or how they failed."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
    hosts = [[f"127.0.0.1:{it.getsockname()[1]}"] for it in sockets]
    for it in sockets:
        it.close()
    hostfile = directory / "hosts.json"
    hostfile.write_text(json.dumps(hosts))
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", str(directory)],
            env={**os.environ, "MLX_HOSTFILE": str(hostfile), "MLX_RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(size)
    ]
    try:
        out, err = ranks[0].communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no answer in {LIMIT} s"
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    if not out.strip():
        return err.strip().rpartition("\n")[2][:160]
    return json.loads(out.strip().rpartition("\n")[2])


def prepare(name: str, directory: Path) -> dict[str, Any]:
    """Write the small model of ``name`` and trace its ranks."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from benchmarks import planner_models
    from planner.hollow import program
    from planner.hollow.__main__ import rank as hollow_rank

    config = planner_models.config(name)
    text = config.get("text_config", config)
    text |= {key: value for key, value in WIDE.items() if key in text}
    made = planner_models.model(name, config)
    mx.save_safetensors(str(directory / "model.safetensors"), dict(tree_flatten(made.parameters())))
    (directory / "config.json").write_text(json.dumps(config))
    with program.cpu():
        return {str(size): hollow_rank(directory, size) for size in SIZES}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rank")
    parser.add_argument("--prepare", nargs=2)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    if asked.rank:
        rank(asked.rank)
        return
    if asked.prepare:
        print(json.dumps(prepare(asked.prepare[0], Path(asked.prepare[1]))))
        return
    rows = kept(asked.write)
    for name in asked.names:
        with tempfile.TemporaryDirectory() as directory:
            run = subprocess.run(
                [sys.executable, __file__, "--prepare", name, directory],
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                print(f"{name}: {run.stderr.strip().rpartition(chr(10))[2]}", file=sys.stderr)
                continue
            said = json.loads(run.stdout.strip().rpartition("\n")[2])
            cells = [_cell(said[str(size)], real(Path(directory), size)) for size in SIZES]
        rows[name] = f"| {name} | " + " | ".join(cells) + " |"
        print(rows[name], file=sys.stderr, flush=True)
        if asked.write:
            asked.write.write_text(page(rows))
    print(page(rows))


def kept(path: Path | None) -> dict[str, str]:
    """The rows of a page that is there already, by architecture."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    rows = [line for line in lines if line.startswith("| ") and "| architecture |" not in line]
    return {row.split("|")[1].strip(): row for row in rows}


def page(rows: dict[str, str]) -> str:
    """All rows under their heading."""
    head = ["| architecture | 2 ranks | 4 ranks | 8 ranks |", "|---|---|---|---|"]
    return PAGE.format(rows="\n".join([*head, *(rows[name] for name in sorted(rows))]))


def _cell(said: dict[str, Any] | str, seen: dict[str, int] | str) -> str:
    if isinstance(said, str) or isinstance(seen, str):
        both = isinstance(said, str) and isinstance(seen, str)
        verdict = "refused, and fails" if both else "**DIFFER**"
        return f"{verdict}: {said if isinstance(said, str) else seen}"[:120]
    caches = sum(
        kind["count"]
        * (
            kind.get("token_bytes", 0)
            * (min(TOKENS, kind["window"] + TOKENS) if kind.get("window") else TOKENS)
            + kind.get("fixed_bytes", 0)
        )
        for kind in said["kinds"]
    )
    weights = said["weights"]
    over = 100 * (weights - seen["weights"]) / seen["weights"]
    return f"weights {weights:,} ({over:+.2f} %), caches {caches:,} (really {seen['caches']:,})"


if __name__ == "__main__":
    main()
