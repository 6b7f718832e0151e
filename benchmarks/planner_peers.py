"""hf-mem and llmfit on the configurations of ``planner_published.py``, beside ours.

    python -m venv peers; peers/bin/pip install hf-mem llmfit
    python benchmarks/planner_peers.py --peers peers/bin --lock LOCK [--write PAGE] [NAME …]

LOCK is one that `planner_published.py --lock` wrote. No hub is asked: hf-mem gets its `config.json`
and its header from here, by a client's transport that answers in the hub's place (it speaks to
huggingface.co only, whatever `HF_ENDPOINT` says); llmfit has a catalogue of its own, in which a
model is named as it is published.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TOKENS = 32768
# What llmfit's catalogue calls them, and how they are quantized there.
CATALOGUE = {
    "Llama-3.1-8B": ("meta-llama/Llama-3.1-8B", "F16"),
    "Llama-3.1-8B-4bit": ("meta-llama/Llama-3.1-8B", "mlx-4bit"),
    "Qwen3-30B-A3B": ("Qwen/Qwen3-30B-A3B", "F16"),
    "gemma-3-27b-4bit": ("google/gemma-3-27b-it", "mlx-4bit"),
    "gpt-oss-20b-mxfp4": ("openai/gpt-oss-20b", "MXFP4"),
    "DeepSeek-V3-4bit": ("deepseek-ai/DeepSeek-V3", "mlx-4bit"),
}
HF_MEM = """
import json, struct, sys
import httpx2
from hf_mem import run
folder = sys.argv[1]
config = open(f"{folder}/config.json", "rb").read()
text = open(f"{folder}/header.json", "rb").read()
weights = struct.pack("<Q", len(text)) + text
def answer(request):
    path = request.url.path
    if "/tree/" in path:
        names = ("config.json", "model.safetensors")
        return httpx2.Response(200, json=[{"type": "file", "path": name} for name in names])
    if path.endswith("config.json"):
        return httpx2.Response(200, content=config)
    if path.endswith("model.safetensors"):
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        return httpx2.Response(206, content=weights[int(first) : int(last) + 1])
    return httpx2.Response(404)
client = httpx2.AsyncClient
httpx2.AsyncClient = lambda **_: client(transport=httpx2.MockTransport(answer))
said = run(model_id="published/model", revision="main", experimental=True,
           max_model_len=int(sys.argv[2]), batch_size=1, kv_cache_dtype="bfloat16")
print(json.dumps({"weights": said.memory, "kv": said.kv_cache}))
"""
PAGE = """\
# hf-mem and llmfit on the same models

Made by `benchmarks/planner_peers.py`, {peers}, in one run; GB of 10^9 bytes, one
sequence of 32,768 tokens. hf-mem reads the same `config.json` and the same header as ours. llmfit
knows a model by its published name; its sum is its `minimum` of GPU memory, which it tells no parts
of.

| model | ours: weights | ours: KV | hf-mem: weights | hf-mem: KV | llmfit: sum |
|---|---|---|---|---|---|
{rows}
"""


def hf_mem(peers: Path, name: str) -> str:
    """Weights and KV by hf-mem, as two cells."""
    from benchmarks import planner_published  # noqa: PLC0415 -- has MLX in its children only
    from benchmarks.published_models import MODELS  # noqa: PLC0415

    header = subprocess.run(
        [sys.executable, planner_published.__file__, "--header", name],
        capture_output=True,
        check=True,
    ).stdout
    config = {**MODELS[name], "torch_dtype": "bfloat16"}
    config["architectures"] = ["ForCausalLM"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(config))
        Path(directory, "header.json").write_bytes(header)
        run = subprocess.run(
            [peers / "python", "-c", HF_MEM, directory, str(TOKENS)],
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode:
        return f"fails: {run.stderr.strip().rpartition(chr(10))[2][:80]} | "
    said = json.loads(run.stdout.strip().rpartition("\n")[2])
    return f"{said['weights'] / 1e9:.1f} | {said['kv'] / 1e9:.2f}"


def llmfit(peers: Path, name: str) -> str:
    """The sum by llmfit."""
    called, quantized = CATALOGUE[name]
    asked = ["--json", "plan", called, "--context", str(TOKENS), "--quant", quantized]
    run = subprocess.run([peers / "llmfit", *asked], capture_output=True, text=True, check=False)
    if run.returncode:
        return f"fails: {run.stderr.strip().rpartition(chr(10))[2][:80]}"
    return f"{json.loads(run.stdout)['minimum']['vram_gb']:.1f}"


def main() -> None:
    from hub import lock  # noqa: PLC0415
    from planner.demand import entry_bytes  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    known = lock.read(asked.lock).models
    versions = subprocess.run(
        [asked.peers / "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    rows = []
    for name in asked.names or CATALOGUE:
        entry = known.get(f"published/{name}@{'0' * 40}")
        if entry is None:
            print(f"{name}: not in {asked.lock}", file=sys.stderr)
            continue
        traced = next(iter(entry.traces.values()))
        rank = traced.rank(1)
        kv = entry_bytes(rank, TOKENS, 1)
        rows.append(
            f"| {name} | {rank.weights / 1e9:.1f} | {kv / 1e9:.2f} "
            f"| {hf_mem(asked.peers, name)} | {llmfit(asked.peers, name)} |"
        )
        print(rows[-1], flush=True)
    peers = ", ".join(it for it in versions if it.startswith(("hf-mem", "llmfit")))
    if asked.write:
        asked.write.write_text(PAGE.format(peers=peers.replace("==", " "), rows="\n".join(rows)))


if __name__ == "__main__":
    main()
