"""What the guard costs: beside the direct path, in one run, against a fast fake engine.

    .venv/bin/python benchmarks/guard_cost.py

The fake answers in mlx_lm.server's format and generates nothing: a token every 10 ms for the
times, and as fast as it can for the limit.  Rounds alternate between the engine's own socket and
the guard's.  Prints one table: added time to first token (median and 99th percentile), the
guard's processor time for each token of long streams, its limit in tokens a second, its memory.

With ``--real`` it is the real mlx_lm.server and a random model instead: tokens a second of eight
streams, directly and through the guard, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.guard.instance import Instance
from tests.guard.models import make_tiny_llama

GUARD, ENGINE = "api.sock", "engine.sock"
SHORT, LONG = 8, 200  # tokens of a stream: to time the first one, and to weigh them all
EVERY_S = 0.01
FAKE = """#!{python}
# Stands in for the runtime's Python: the launcher becomes the fake engine, all else runs as it is.
import os, sys
if any(word.endswith("mlx_launcher.py") for word in sys.argv):
    engine = sys.argv[sys.argv.index("--guard-socket") + 1]
    os.execv({python!r}, [{python!r}, {this!r}, "--fake", engine])
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
CHUNK = (
    b'data: {"id": "chatcmpl-0", "system_fingerprint": "fake", "object": "chat.completion.chunk", '
    b'"model": "default_model", "created": 0, "choices": [{"index": 0, "finish_reason": %b, '
    b'"delta": {"role": "assistant", "content": "word "}}]}\n\n'
)
USAGE = (
    b'data: {"id": "chatcmpl-0", "choices": [], "usage": {"prompt_tokens": 5, '
    b'"completion_tokens": %d, "total_tokens": 0}}\n\n'
)
FACTS = json.dumps({"fingerprint": "fake", "batchable": True}).encode()


async def fake(socket: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(FACTS)
        else:
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            tokens, paced = body["max_tokens"], body["temperature"] == 0
            for number in range(tokens):
                if paced and number:
                    await asyncio.sleep(EVERY_S)
                last = number == tokens - 1
                writer.write(CHUNK % (b'"length"' if last else b"null"))
                await writer.drain()
            writer.write(USAGE % tokens + b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, socket, backlog=512)
    await server.serve_forever()


async def stream(where: Path, tokens: int, *, paced: bool) -> tuple[float, int]:
    """Seconds to the first token, and the number of events."""
    reader, writer = await asyncio.open_unix_connection(where)
    asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True,
             "max_tokens": tokens, "temperature": 0 if paced else 1}  # fmt: skip
    if where.name == GUARD:  # the real engine would look for a model of that name
        asked["model"] = "tiny"
    asked["logit_bias"] = {"256": -100}  # never the end token
    body = json.dumps(asked).encode()
    began = time.perf_counter()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    first, seen, rest = 0.0, 0, b""
    while b"[DONE]" not in rest:
        data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError(rest[-300:])
        if not first and b'"content": "' in data.replace(b'":"', b'": "'):
            first = time.perf_counter() - began
        seen += data.count(b"data: ")
        rest = (rest + data)[-64:]
    writer.close()
    return first, seen


async def round_of(
    where: Path, streams: int, tokens: int, *, paced: bool = True
) -> tuple[list[float], int]:
    told = await asyncio.gather(*(stream(where, tokens, paced=paced) for _ in range(streams)))
    return [first for first, _ in told], sum(seen for _, seen in told)


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


async def measure(instance: Instance, engine: Path, rounds: int) -> list[dict[str, float]]:
    assert instance.process is not None
    pid, rows = instance.process.pid, []
    for streams in (1, 8, 32):
        direct, guarded = [], []
        for _ in range(rounds * 32 // streams):
            direct += (await round_of(engine, streams, SHORT))[0]
            guarded += (await round_of(instance.socket, streams, SHORT))[0]
        before = cpu_s(pid)
        tokens = sum([(await round_of(instance.socket, streams, LONG))[1] for _ in range(2)])
        spent = cpu_s(pid) - before
        speeds = {}
        for name, where in (("direct", engine), ("guard", instance.socket)):
            began, seen = time.perf_counter(), 0
            for _ in range(3):
                seen += (await round_of(where, streams, LONG, paced=False))[1]
            speeds[name] = seen / (time.perf_counter() - began)
        a, b = statistics.quantiles(direct, n=100), statistics.quantiles(guarded, n=100)
        rows.append(
            {
                "streams": streams,
                "direct_p50_ms": a[49] * 1e3, "direct_p99_ms": a[98] * 1e3,
                "added_p50_ms": (b[49] - a[49]) * 1e3, "added_p99_ms": (b[98] - a[98]) * 1e3,
                "cpu_us_token": spent / tokens * 1e6,
                "limit_direct": speeds["direct"], "limit_guard": speeds["guard"],
                "resident_mib": resident_mib(pid),
            }
        )  # fmt: skip
    return rows


async def beside(instance: Instance, engine: Path, rounds: int) -> None:
    """Tokens a second of eight streams, directly and through the guard, in turn."""
    speeds: dict[str, list[float]] = {"direct": [], "guard": []}
    for _ in range(rounds):
        for name, where in (("direct", engine), ("guard", instance.socket)):
            began = time.perf_counter()
            await round_of(where, 8, LONG)
            speeds[name].append(8 * LONG / (time.perf_counter() - began))
    for name, told in speeds.items():
        print(f"{name}: median {statistics.median(told):.1f} tokens/s of {len(told)} rounds, "
              f"{min(told):.1f} to {max(told):.1f}")  # fmt: skip


def real(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        place = Path(folder)
        model = make_tiny_llama(place / "model", hidden=256, layers=4, heads=4)
        config = {"concurrency": 8, "decode_concurrency": 8, "probe_interval_s": 3600}
        with Instance(place, model, **config) as instance:
            asyncio.run(beside(instance, instance.socket.with_name(ENGINE), rounds))


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        place = Path(folder)
        python = place / "runtime/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(FAKE.format(python=sys.executable, this=str(Path(__file__).resolve())))
        python.chmod(0o755)
        model = make_tiny_llama(place / "model")
        config = {"runtime": str(place / "runtime"), "concurrency": 64, "probe_interval_s": 3600,
                  "decode_concurrency": 64}  # fmt: skip
        with Instance(place, model, **config) as instance:
            rows = asyncio.run(measure(instance, instance.socket.with_name(ENGINE), rounds))
    print("| streams | first token, direct p50 / p99 | added p50 / p99 | processor time a token | "
          "limit, direct / guard | memory |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| {streams} | {direct_p50_ms:.1f} / {direct_p99_ms:.1f} ms | {added_p50_ms:.1f} / "
              "{added_p99_ms:.1f} ms | {cpu_us_token:.0f} µs | {limit_direct:.0f} / "
              "{limit_guard:.0f} tokens/s | {resident_mib:.0f} MiB |".format(**row))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--fake", type=Path, help="be the fake engine on this socket")
    parser.add_argument("--real", action="store_true", help="the real engine, side by side")
    given = parser.parse_args()
    if given.real:
        real(given.rounds)
    elif given.fake:
        asyncio.run(fake(given.fake))
    else:
        main(given.rounds)
