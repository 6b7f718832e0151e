"""What one client sends, or leaves unsent, costs no other: bounds on all that it may take."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guard import door, strict_json, translate
from guard.errors import Refusal
from guard.tokenizer import Tokenizer
from tests.guard.instance import ROOT, Instance
from tests.guard.models import make_tiny_llama

COUNTING = [
    str(ROOT / ".venv/bin/python"), "-I", str(ROOT / "guard/engines/mlx_tokenizer.py"),
]  # fmt: skip
NEVER_ENDS = {"max_tokens": 4000, "logit_bias": {"256": -100}}


def request(body: bytes, *, length: int | None = None) -> bytes:
    """A completion's bytes; ``length`` is what its header says."""
    said = len(body) if length is None else length
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {said}\r\n\r\n"
    return head.encode() + body


def connected(instance: Instance) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(20)
    made.connect(str(instance.socket))
    return made


def asked(**more: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "x", "temperature": 0} | more).encode()


def test_a_key_that_stands_twice_is_found_at_once() -> None:
    """Among 200,000: by comparing each with each it would take an hour."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    began = time.process_time()
    with pytest.raises(Refusal, match="`7` stands twice"):
        strict_json.parse(f'{{{keys},"7":0}}'.encode())
    assert time.process_time() - began < 20


@pytest.mark.parametrize("one", ["{}", "[]", '{"a":[]}'])
def test_a_body_of_very_many_parts_is_refused(one: str) -> None:
    """Each is looked at by the schema, which would hold up everybody for seconds."""
    body = f'{{"messages":[{",".join([one] * strict_json.MAX_CONTAINERS)}]}}'
    with pytest.raises(Refusal, match="objects and lists"):
        strict_json.parse(body.encode())


@pytest.mark.parametrize("prompt", [[1] * 101, [[1], [1] * 101]])
def test_more_token_ids_than_the_context_has_are_refused_by_their_number(prompt: object) -> None:
    with pytest.raises(Refusal, match="maximum context length is 100") as told:
        translate.refuse_long_lists(prompt, 100)
    assert told.value.code == "context_length_exceeded"
    for good in ([1] * 100, [[1] * 100] * 16, "a text", [["not", "ids"]], None):
        translate.refuse_long_lists(good, 100)


@pytest.fixture
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer([*COUNTING, str(tiny)], dict(os.environ))


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_who_goes_while_a_prompt_is_counted_takes_the_tokenizer_from_nobody(
    tokenizer: Tokenizer,
) -> None:
    """The same child answers the next, and the next one's question."""

    async def run() -> None:
        before = children(os.getpid())
        await tokenizer.facts(patience_s=60)
        counting = children(os.getpid()) - before
        leaving = asyncio.create_task(tokenizer.count_text("x" * 400_000, most=10**6))
        waiting = asyncio.create_task(tokenizer.count_text("never asked", most=100))
        await asyncio.sleep(0.02)
        leaving.cancel()
        waiting.cancel()
        assert await tokenizer.count_text("abc", most=100) == 3
        assert children(os.getpid()) - before == counting
        assert tokenizer.failures == 0
        await tokenizer.close()

    asyncio.run(run())


def test_a_text_that_cannot_fit_is_not_read_to_its_end(tokenizer: Tokenizer) -> None:
    """Its beginning has more tokens than may be; what fits is counted as it is."""

    async def run() -> None:
        long = "x" * 3_000_000
        with pytest.raises(Refusal, match="more than 800 in its prompt") as told:
            await tokenizer.count_text(long, most=100)
        assert told.value.code == "context_length_exceeded"
        with pytest.raises(Refusal, match="more than 800 in its prompt"):
            await tokenizer.count_chat([{"role": "user", "content": long}], None, {}, most=100)
        assert await tokenizer.count_text("x" * 850, most=850) == 850
        await tokenizer.close()

    asyncio.run(run())


def test_a_tokenizer_that_dies_is_no_fault_of_the_prompt(tokenizer: Tokenizer) -> None:
    """503, so that clients come again; a new child answers them, and the failures are counted."""

    async def run() -> None:
        before = children(os.getpid())
        await tokenizer.facts(patience_s=60)
        (child,) = children(os.getpid()) - before
        asking = asyncio.create_task(tokenizer.count_text("x" * 400_000, most=10**6))
        await asyncio.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(Refusal, match="died") as told:
            await asking
        assert told.value.status == 503
        assert tokenizer.failures == 1
        assert await tokenizer.count_text("abc", most=100) == 3
        assert tokenizer.failures == 0
        await tokenizer.close()

    asyncio.run(run())


def test_without_a_tokenizer_it_is_not_ready(tmp_path: Path) -> None:
    """No request can be answered then: the idle probe finds it, and the unit fails and says why."""
    model = make_tiny_llama(tmp_path / "model")
    with Instance(tmp_path, model) as instance:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).unlink()
        (counting,) = children(instance.process.pid) - {instance.engine_pid}
        os.kill(counting, signal.SIGKILL)
        assert instance.process.wait(30) == 1
        assert "the tokenizer does not start" in instance.state()["reason"]


def test_as_many_are_admitted_as_may_run_and_wait(tmp_path: Path, tiny: Path) -> None:
    """However long their prompts take to be counted: of 30 at once, three."""
    with Instance(tmp_path, tiny, concurrency=1, waiting=2) as instance:
        prompt = asked(prompt="x" * 4000, **NEVER_ENDS | {"max_tokens": 50})
        clients = [connected(instance) for _ in range(30)]
        for client in clients:
            client.sendall(request(prompt))
        statuses = sorted(client.recv(12).decode()[-3:] for client in clients)
        assert statuses == ["200"] * 3 + ["429"] * 27


@asynccontextmanager
async def opened(path: Path, application: door.Application) -> AsyncIterator[None]:
    made = door.Door(application)
    serving = asyncio.create_task(made.serve([door.listen(path)]))
    try:
        yield  # it listens already
    finally:
        made.close(within_s=0)
        await serving


async def hello(_: door.Scope, __: door.Receive, send: door.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_connections_beyond_the_bound_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are there are served all the while: the engine's need descriptors, too."""
    monkeypatch.setattr(door.Connection, "most", 2)
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, hello):
            reader, writer = await asyncio.open_unix_connection(path)
            _, idle = await asyncio.open_unix_connection(path)
            await asyncio.sleep(0.1)
            refused, _ = await asyncio.open_unix_connection(path)
            assert await refused.read() == b""
            writer.write(GET)
            assert b"200 OK" in await reader.read(100)
            idle.close()
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET)
            assert b"200 OK" in await reader.read(100)

    asyncio.run(run())


@pytest.mark.parametrize("begun", [b"", b"GET / HT", GET + b"GET /"])
def test_a_head_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """Nor the second one of a connection."""
    monkeypatch.setattr(door, "HEAD_PATIENCE_S", 0.3)
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, hello):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(begun)
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert (b"hello" in answer) == (GET in begun)

    asyncio.run(run())


def test_a_head_without_end_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, hello):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET[:-2] + b"a: " + b"b" * 10 * door.HEAD_BYTES)
            async with asyncio.timeout(10):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)

    asyncio.run(run())


HALF_POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "more"), [(GET, b"\r\n"), (HALF_POST, b"x"), (CHUNKED, b"1;"), (CHUNKED, b"0\r\n")]
)
def test_what_comes_after_an_answer_is_a_head_soon_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: bytes, more: bytes
) -> None:
    """Any byte keeps a connection from being idle; half a request is not waited for either."""
    monkeypatch.setattr(door, "HEAD_PATIENCE_S", 0.3)
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, hello), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(request_)
            await reader.readuntil(b"hello\r\n0\r\n\r\n")
            await asyncio.sleep(0.5)  # idle it may be
            writer.write(more)
            assert await reader.read() == b""

    asyncio.run(run())


def test_a_rest_of_a_body_that_nobody_reads_may_still_come(tmp_path: Path) -> None:
    """A proxy that is answered early goes on sending, and uses the connection again."""
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, hello), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(HALF_POST)
            await reader.readuntil(b"hello\r\n0\r\n\r\n")
            for _ in range(10):
                writer.write(b"x" * 100)
                await asyncio.sleep(0.01)
            writer.write(GET)
            await reader.readuntil(b"hello\r\n0\r\n\r\n")

    asyncio.run(run())


@pytest.mark.parametrize("application", ["hello", "echo"])
@pytest.mark.parametrize("line", [b"a: " + b"b" * 1000 + b"\r\n", b"b" * 1000])
def test_trailers_without_end_are_not_kept(tmp_path: Path, application: str, line: bytes) -> None:
    """Before the answer and after it, in lines or in one."""
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, {"hello": hello, "echo": echo}[application]), asyncio.timeout(10):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(CHUNKED + b"1\r\nx\r\n0\r\na: ")
            await asyncio.sleep(0.1)
            for _ in range(3 * door.HEAD_BYTES // 1000):
                writer.write(line)
                await asyncio.sleep(0.001)
            assert writer.is_closing()

    asyncio.run(run())


def test_a_body_of_small_chunks_is_no_head(tmp_path: Path) -> None:
    """However much their sizes are together."""
    path = tmp_path / "s"
    many = door.HEAD_BYTES // 4

    async def run() -> None:
        async with opened(path, echo), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(CHUNKED)
            for _ in range(64):
                writer.write(b"1\r\nx\r\n" * (many // 64))
                await asyncio.sleep(0.001)
            writer.write(b"0\r\n\r\n")
            await reader.readuntil(b"POST / " + b"x" * many)

    asyncio.run(run())


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize(
    ("more", "requests", "length"),
    [(b"", 1, 4_000_000), (b"Connection: close\r\n", 1, 4_000_000), (b"", 40, 20_000)],
)
def test_an_answer_that_is_not_taken_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes, requests: int, length: int
) -> None:
    """Of a connection that stays or ends; nor those of many requests, which pile up."""
    monkeypatch.setattr(door, "TAKE_PATIENCE_S", 0.5)
    path = tmp_path / "s"

    async def large(_: door.Scope, __: door.Receive, send: door.Send) -> None:
        head = {"status": 200, "headers": [(b"content-length", b"%d" % length)]}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": b"x" * length})

    async def run() -> None:
        async with opened(path, large):
            before = descriptors()
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            with client:
                for _ in range(requests):
                    client.sendall(GET[:-2] + more + b"\r\n")
                    await asyncio.sleep(0.02)
                await asyncio.sleep(3)
                assert descriptors() == before + 1

    asyncio.run(run())


async def echo(scope: door.Scope, receive: door.Receive, send: door.Send) -> None:
    """Says what it was asked: the method, the path, the body."""
    said, more = f"{scope['method']} {scope['path']} ".encode(), True
    while more:
        message = await receive()
        said += message["body"]
        more = message["more_body"]
    head = {"status": 200, "headers": [(b"content-length", b"%d" % len(said))]}
    await send({"type": "http.response.start", **head})
    await send({"type": "http.response.body", "body": said})


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 20, 100, 1000])
@pytest.mark.parametrize("length", [b"Content-Length: 35", b"Transfer-Encoding: chunked"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(
    tmp_path: Path, length: bytes, cut: int
) -> None:
    """As Java's client does at first: its body is its body, however late, and no request."""
    path = tmp_path / "s"
    body = b"23\r\n%b\r\n0\r\n\r\n" % SMUGGLED if b"chunked" in length else SMUGGLED
    sent = b"POST /a HTTP/1.1\r\nHost: x\r\n%b%b\r\n\r\n" % (UPGRADE, length)
    cut = min(cut, len(sent))

    async def run() -> None:
        async with opened(path, echo), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(sent[:cut])
            await asyncio.sleep(0.1)
            writer.write(sent[cut:] + body)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            said = b"POST /a " + SMUGGLED
            assert await reader.readexactly(len(said)) == said
            writer.write(SMUGGLED.replace(b"Host", b"Connection: close\r\nHost"))
            assert (await reader.read()).endswith(b"\r\n\r\nGET /smuggled ")

    asyncio.run(run())


def test_who_asks_for_a_tunnel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def run() -> None:
        async with opened(path, echo), asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.count(b"HTTP/1.1") == 1

    asyncio.run(run())


def test_who_sends_two_requests_at_once_is_seen_to_go(instance: Instance) -> None:
    """The second is not read, so that the first one's client is watched; it stops at once."""
    with connected(instance) as client:
        client.sendall(request(asked(**NEVER_ENDS)) + request(asked(max_tokens=1)))
        instance.until(lambda: running_now(instance) == 1)
    instance.until(lambda: running_now(instance) == 0, within_s=5)
    assert instance.requests_logged()[-1]["outcome"] == "client_gone"


def test_the_first_of_two_requests_at_once_is_answered(instance: Instance) -> None:
    """And the connection ends, so that the client asks for the second again."""
    with connected(instance) as client:
        client.sendall(request(asked(max_tokens=2)) + request(asked(max_tokens=2)))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 2


def running_now(instance: Instance) -> float:
    return told(instance, "vllm:num_requests_running{")


def told(instance: Instance, name: str) -> float:
    lines = instance.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_bodies_on_their_way_are_bounded_together(instance: Instance) -> None:
    """Nine of nearly the most: the last is told to come again, the others can go on."""
    limit = 256 * 1024 + 32 * 4096
    clients = [connected(instance) for _ in range(9)]
    for client in clients:
        client.sendall(request(b" " * (limit - 100), length=limit))
    answered, _, _ = select.select(clients, [], [], 20)
    (refused,) = answered
    assert b" 429 " in refused.recv(100)
    for client in clients:
        client.close()
    instance.until(lambda: instance.chat().status_code == 200, within_s=20)


@pytest.mark.parametrize(
    ("send", "outcome"),
    [
        (lambda client: client.sendall(request(b" " * 500_000)), "refused"),
        (lambda client: client.sendall(request(b"{", length=100)), "client_gone"),
    ],
)
def test_a_request_whose_body_never_came_has_its_line_too(
    instance: Instance, send: Callable[[socket.socket], None], outcome: str
) -> None:
    """In the log and in the count, as every other; and no latency, for nothing was answered."""
    before = len(instance.requests_logged())
    answered = told(instance, "vllm:e2e_request_latency_seconds_count")
    counted = told(instance, f'mlx_guard_requests_total{{outcome="{outcome}"}}')
    with connected(instance) as client:
        send(client)
        if outcome == "refused":
            assert b" 413 " in client.recv(100)
    instance.until(lambda: len(instance.requests_logged()) == before + 1)
    assert instance.requests_logged()[-1]["outcome"] == outcome
    assert told(instance, f'mlx_guard_requests_total{{outcome="{outcome}"}}') == counted + 1
    assert told(instance, "vllm:e2e_request_latency_seconds_count") == answered


def test_only_what_is_told_may_be_got(instance: Instance) -> None:
    wrong = instance.client.post("/v1/models", json={}), instance.client.get("/v1/completions")
    assert [answer.status_code for answer in wrong] == [405, 405]
    assert [answer.headers["allow"] for answer in wrong] == ["GET, HEAD", "POST"]
    assert instance.client.post("/v1/embeddings", json={}).status_code == 404


def test_a_body_that_does_not_come_holds_no_stop_up(tmp_path: Path, tiny: Path) -> None:
    """It was not accepted; a host that reboots would wait a minute for it."""
    with Instance(tmp_path, tiny, stop_timeout_s=30) as instance:
        half = connected(instance)
        half.sendall(request(b"{", length=100))
        assert instance.chat().status_code == 200
        began = time.monotonic()
        assert instance.stop() == 0
        assert time.monotonic() - began < 20
        half.close()


def test_an_answer_that_is_not_yet_taken_is_not_cut_off(tmp_path: Path, tiny: Path) -> None:
    """A client that pauses when the instance is asked to stop: it gets all that was answered."""
    with Instance(tmp_path, tiny, stop_timeout_s=30) as instance:
        client = connected(instance)
        client.sendall(request(asked(max_tokens=2500, logprobs=5, logit_bias={"256": -100})))
        instance.until(lambda: bool(instance.requests_logged()))
        instance.process.send_signal(signal.SIGTERM)
        time.sleep(door.FLUSH_S + 2)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        _, _, body = answer.partition(b"\r\n\r\n")
        assert len(body) > 300_000  # more than a socket's buffers hold
        assert len(json.loads(body)["choices"][0]["logprobs"]["tokens"]) == 2500
        assert instance.process.wait(15) == 0
