"""Start, truth, recovery and end of one instance, with the real engine hurt from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import jinja2
import pytest

from tests.guard.fake_engine import HANG, make_runtime
from tests.guard.instance import Instance, events
from tests.guard.streaming import InFlight

LOOPS = "{{% for a in range({}) %}}{{% for b in range(99999) %}}{{% endfor %}}{{% endfor %}}x"
HANGING = LOOPS.format(99999)  # for ever


def busy(seconds: float) -> str:
    """A template that takes so long on a machine as fast as this one is now."""
    began = time.perf_counter()
    jinja2.Template(LOOPS.format(20)).render()
    return LOOPS.format(round(20 * seconds / (time.perf_counter() - began)))


def ask_behind_the_guards_back(instance: Instance, **body: Any) -> threading.Thread:
    """A request to the engine itself, which the guard knows nothing of."""
    transport = httpx2.HTTPTransport(uds=str(instance.socket.with_name("engine.sock")))
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9} | body

    def ask() -> None:
        engine = httpx2.Client(transport=transport, base_url="http://engine", timeout=20)
        with engine, contextlib.suppress(httpx2.HTTPError):
            engine.post("/v1/chat/completions", json=asked)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def lives(pid: int) -> bool:
    """Whether there is such a process (one that nobody has reaped is none)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def fresh(tmp_path: Path, tiny: Path) -> Any:
    with Instance(tmp_path, tiny) as started:
        yield started


def test_ready_comes_after_a_token(tmp_path: Path, tiny: Path) -> None:
    """systemd is told READY once, after loading was told; until then requests get a 503."""
    instance = Instance(tmp_path, tiny)
    instance.start()
    instance.until(lambda: instance.state().get("engine_pid") is not None)
    os.kill(instance.engine_pid, signal.SIGSTOP)  # it would load so small a model in no time
    instance.until(lambda: any(w.startswith("STATUS=loading: ") for w in instance.notified()))
    early = instance.chat()
    assert early.status_code == 503
    assert int(early.headers["Retry-After"]) > 0
    os.kill(instance.engine_pid, signal.SIGCONT)
    instance.until(lambda: "READY=1" in instance.notified())
    told = instance.notified()
    assert told.count("READY=1") == 1
    assert any(word.startswith("EXTEND_TIMEOUT_USEC=") for word in told)
    assert told.index("READY=1") > max(
        index for index, word in enumerate(told) if word.startswith("STATUS=loading")
    )
    assert (tmp_path / "run/inputs").read_text() == "digest\n"
    assert instance.client.get("/ready").json()["state"] == "ready"
    instance.__exit__()


def test_the_engine_inherits_no_secret(fresh: Instance) -> None:
    """Neither the unit's environment nor systemd's socket reaches the engine."""
    environment = Path(f"/proc/{fresh.engine_pid}/environ").read_text()
    assert "secret" not in environment
    assert "NOTIFY_SOCKET" not in environment
    assert "HF_HUB_OFFLINE=1" in environment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frobnicate": 1}, "`frobnicate`: extra inputs are not permitted"),
        ({"context_tokens": "many"}, "`context_tokens`: input should be a valid integer"),
        ({"instance": "Tiny"}, "`instance`: "),
        ({"concurrency": 5}, "`decode_concurrency`: value error, 4 is less than `concurrency` (5)"),
        ({"engine": "vllm"}, "no such engine: `vllm`; there are: mlx"),
        ({"engine_environment": {"LD_PRELOAD": "x"}}, "`engine_environment.LD_PRELOAD"),
    ],
)
def test_a_wrong_configuration_ends_with_78(
    tmp_path: Path, tiny: Path, change: dict[str, Any], words: str
) -> None:
    """One clear message, and the exit code that the unit does not restart on."""
    instance = Instance(tmp_path, tiny, **change)
    instance.start()
    assert instance.process is not None
    assert instance.process.wait(10) == 78
    assert words in instance.log()
    instance.__exit__()


def test_a_model_that_cannot_load_fails_and_says_so(tmp_path: Path, tiny: Path) -> None:
    """The bare server lives for ever without its weights; the guard ends, with the reason."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.iterdir():
        if file.suffix == ".json":
            (broken / file.name).write_bytes(file.read_bytes())
    instance = Instance(tmp_path, broken)
    instance.start()
    assert instance.process is not None
    assert instance.process.wait(30) == 1
    assert "generation thread died while starting" in instance.state()["reason"]
    instance.__exit__()


@pytest.mark.parametrize(
    ("breaks", "words", "kept"),
    [
        ("1", "the engine broke off while loading", False),
        ("4", "the engine broke off while warming", False),
        ("probe", "the probe failed: ", False),
        ("process", "the engine killed by SIGKILL while starting", False),
        ("tokenizer", "no tokens can be counted: the tokenizer died", True),
        ("facts", "the guard made a mistake: KeyError", True),
    ],
)
def test_a_start_that_breaks_off_says_so(
    tmp_path: Path, tiny: Path, breaks: str, words: str, kept: object
) -> None:
    """Wherever it does; and an engine that lives on may have broken over a kernel that was kept."""
    runtime = make_runtime(tmp_path / "runtime", breaks=breaks)
    instance = Instance(tmp_path, tiny, runtime=str(runtime))
    instance.start()
    assert instance.process is not None
    assert instance.process.wait(30) == 1
    assert instance.state()["state"] == "failed"
    assert instance.state()["last_failure"]["reason"].startswith(words)
    assert ("Traceback" in instance.log()) == ("mistake" in words)
    assert any((instance.cache_dir / "ptx").iterdir()) == kept
    instance.__exit__()


def test_a_runtime_that_is_gone_is_said_to_be(tmp_path: Path, tiny: Path) -> None:
    """One line of what is missing where."""
    instance = Instance(tmp_path, tiny, runtime=str(tmp_path / "gone"))
    instance.start()
    assert instance.process is not None
    assert instance.process.wait(30) == 1
    assert instance.state()["reason"].startswith("the engine cannot be started: ")
    assert f"{tmp_path}/gone/bin/python" in instance.state()["reason"]
    instance.__exit__()


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSTOP, "stopped by a signal")],
)
def test_an_engine_killed_or_stopped_is_found_at_once(
    fresh: Instance, number: signal.Signals, words: str
) -> None:
    """The client in flight gets an error it can read, the unit fails, nothing is left behind."""
    stream = InFlight(fresh)
    engine = fresh.engine_pid
    os.kill(engine, number)
    assert fresh.process is not None
    assert fresh.process.wait(10) == 1
    assert stream.ended.wait(5)
    error = events(stream.text)[-1]["error"]
    assert error["type"] == "server_error"
    if number == signal.SIGSTOP:  # its stream does not break by itself
        assert words in error["message"]
    assert words in fresh.state()["reason"]
    assert fresh.state()["last_failure"]["reason"] == fresh.state()["reason"]
    assert not lives(engine)
    # It may have died of a kernel that was kept; one that we ended did not.
    kept = any((fresh.cache_dir / "ptx").iterdir())
    assert kept == (number == signal.SIGSTOP)


def test_a_dead_generation_thread_is_found(fresh: Instance) -> None:
    """Killed behind the guard's back while idle; the process lives on and listens."""
    ask_behind_the_guards_back(fresh, top_k=260, temperature=1.0)
    assert fresh.process is not None
    assert fresh.process.wait(10) == 1
    assert "generation thread died" in fresh.state()["reason"]
    assert not any((fresh.cache_dir / "ptx").iterdir())  # of which it may have died


@pytest.mark.parametrize("busy", [True, False])
def test_a_hanging_generation_thread_is_found(tmp_path: Path, tiny: Path, busy: bool) -> None:  # noqa: FBT001
    """A template that loops for ever, health 200 all the while: found by silence or the probe."""
    with Instance(tmp_path, tiny, hang_floor_s=3) as instance:
        stream = InFlight(instance) if busy else None
        ask_behind_the_guards_back(instance, chat_template_kwargs={"chat_template": HANGING})
        assert instance.process is not None
        assert instance.process.wait(60) == 1
        assert "hangs: no sign of life" in instance.state()["reason"]
        if stream is not None:
            assert stream.ended.wait(5)
            assert "the engine hangs" in events(stream.text)[-1]["error"]["message"]


def test_clients_that_give_up_and_ask_again_hide_no_hang(tmp_path: Path, tiny: Path) -> None:
    """None of them waits as long as the engine may be silent: the probe does."""
    runtime = str(make_runtime(tmp_path / "runtime"))
    with Instance(
        tmp_path, tiny, runtime=runtime, hang_floor_s=3, compile_allowance_s=0
    ) as instance:
        until = time.monotonic() + 40
        while instance.process is not None and instance.process.poll() is None:
            assert time.monotonic() < until
            with contextlib.suppress(httpx2.HTTPError):
                asked = {"model": "tiny", "prompt": HANG}
                instance.client.post("/v1/completions", json=asked, timeout=1)
        assert "hangs: no sign of life" in instance.state()["reason"]


def test_a_probe_beside_requests_of_a_busy_engine_fails_nothing(tmp_path: Path, tiny: Path) -> None:
    """Silent for several times its interval, all of them wait, and all are answered."""
    with Instance(tmp_path, tiny, probe_interval_s=0.5) as instance:
        ask_behind_the_guards_back(instance, chat_template_kwargs={"chat_template": busy(4)})
        time.sleep(0.3)
        began = time.monotonic()
        assert instance.chat().status_code == 200
        assert time.monotonic() - began > 1
        assert instance.state()["starts"] == 1


def test_the_engine_does_not_outlive_its_guard(fresh: Instance) -> None:
    """SIGKILL of the guard, which can tell nobody: the kernel takes engine and tokenizer along."""
    engine = fresh.engine_pid
    fresh.stop(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while lives(engine):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_directory_that_takes_nothing_costs_nobody_a_word(fresh: Instance) -> None:
    """As a full /run: the state cannot be written down, the client in flight is told it."""
    (fresh.run_dir / "state.json.new").mkdir()
    stream = InFlight(fresh)
    os.kill(fresh.engine_pid, signal.SIGKILL)
    assert fresh.process is not None
    assert fresh.process.wait(10) == 1
    assert stream.ended.wait(5)
    assert "error" in events(stream.text)[-1]
    assert "state.json is not written" in fresh.log()


def test_leaving_loses_no_accepted_request(fresh: Instance) -> None:
    """SIGTERM under eight streams (four wait): each ends whole, new ones get 503, exit 0."""
    body = {"max_tokens": 400, "logit_bias": {"256": -100}}
    streams = [InFlight(fresh, **body) for _ in range(4)]
    waiting: list[int] = []

    def wait() -> None:
        waiting.append(fresh.chat(**body).status_code)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert fresh.process is not None
    fresh.process.send_signal(signal.SIGTERM)
    fresh.until(lambda: fresh.client.get("/ready").json()["state"] == "draining")
    refused = fresh.chat()
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    for stream in streams:
        assert stream.ended.wait(30)
        assert events(stream.text)[-1] == "[DONE]"
    for thread in threads:
        thread.join(30)
    assert waiting == [200] * 4
    assert fresh.process.wait(10) == 0


def test_leaving_ends_at_the_stop_timeout(tmp_path: Path, tiny: Path) -> None:
    """What cannot finish in time gets an error it can read, and the unit still ends well."""
    with Instance(tmp_path, tiny, stop_timeout_s=1) as instance:
        stream = InFlight(instance, logit_bias={"256": -100})
        began = time.monotonic()
        assert instance.stop() == 0
        assert time.monotonic() - began < 8
        assert stream.ended.wait(5)
        assert "stopping" in events(stream.text)[-1]["error"]["message"]


def test_more_than_may_wait_are_told_when_to_come_again(tmp_path: Path, tiny: Path) -> None:
    """One runs, one waits, the third gets a 429 with Retry-After."""
    with Instance(tmp_path, tiny, concurrency=1, waiting=1) as instance:
        running = InFlight(instance, max_tokens=1500, logit_bias={"256": -100})
        waiting = threading.Thread(target=instance.chat, daemon=True)
        waiting.start()
        time.sleep(0.2)
        refused = instance.chat()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert running.ended.wait(30)
        assert events(running.text)[-1] == "[DONE]"
        waiting.join(20)


def test_a_client_that_does_not_read_costs_only_itself(tmp_path: Path, tiny: Path) -> None:
    """Its buffer is bounded, its patience ends, and another is served all the while."""
    with (
        Instance(tmp_path, tiny, slow_client_s=1) as instance,
        socket.socket(socket.AF_UNIX) as lazy,
    ):
        lazy.connect(str(instance.socket))
        asked = {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 4000}
        body = json.dumps(asked | {"logit_bias": {"256": -100}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        lazy.sendall(head.encode() + body)
        instance.until(lambda: "slow_client" in instance.log())
        assert instance.chat().status_code == 200
        assert instance.state()["starts"] == 1
