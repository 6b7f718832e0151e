"""Each entry of the launcher: still needed by the locked mlx-lm, and still in effect."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import inspect
import io
import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm import server
from mlx_lm.models.cache import KVCache, LRUPromptCache
from mlx_lm.tool_parsers import qwen3_coder
from mlx_lm.utils import load_tokenizer
from transformers.utils import chat_template_utils

from guard import upstream
from guard.ask import Event, Finish
from guard.engines import mlx
from tests.guard.models import make_tiny_llama

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "guard/engines/mlx_launcher.py"


def load_launcher() -> Any:
    spec = importlib.util.spec_from_file_location("mlx_launcher", LAUNCHER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launcher = load_launcher()


def kept(tokens: int) -> list[KVCache]:
    """The cache of one layer that holds so many tokens."""
    import mlx.core as mx

    cache = KVCache()
    cache.update_and_fetch(mx.zeros((1, 1, tokens, 4)), mx.zeros((1, 1, tokens, 4)))
    return [cache]


def test_an_exact_hit_leaves_nothing_upstream() -> None:
    """Needed: the locked mlx-lm still answers an exact hit with no tokens to process."""
    cache = LRUPromptCache(4)
    cache.insert_cache("m", [1, 2, 3], kept(3))
    assert cache.fetch_nearest_cache("m", [1, 2, 3])[1] == []


def test_an_exact_hit_leaves_one_token_here() -> None:
    """In effect: the last tokens are processed again, on a cache that is shorter by them."""
    cache = launcher.KeptPrefixes(4)
    cache.insert_cache("m", [*range(9)], kept(9))
    (layer,), rest = cache.fetch_nearest_cache("m", [*range(9)])
    assert rest == [7, 8]
    assert layer.offset == 7
    assert cache.fetch_nearest_cache("m", [*range(10)])[1] == [9]
    assert launcher.KeptPrefixes(4).fetch_nearest_cache("m", [1]) == (None, [1])


def test_an_exact_hit_that_cannot_be_trimmed_is_no_hit() -> None:
    """Hybrid models keep states that cannot go back: then the prompt is processed again."""

    class State(KVCache):
        def is_trimmable(self) -> bool:
            return False

    state = State()
    state.keys, state.values, state.offset = *kept(9)[0].state[:2], 9
    cache = launcher.KeptPrefixes(4)
    cache.insert_cache("m", [*range(9)], [state])
    assert cache.fetch_nearest_cache("m", [*range(10)])[1] == [9]
    assert cache.fetch_nearest_cache("m", [*range(9)]) == (None, [*range(9)])


MEASURE = """
import importlib.util, json, sys
import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, LRUPromptCache
spec = importlib.util.spec_from_file_location("launcher", sys.argv[1])
launcher = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launcher)
kinds = {"upstream": LRUPromptCache, "ours": launcher.KeptPrefixes}
store = kinds[sys.argv[2]](100)
base = mx.get_active_memory()
batch = BatchKVCache([0] * 8)
batch.update_and_fetch(mx.ones((8, 4, 512, 64)), mx.ones((8, 4, 512, 64)))
mx.eval(batch.state)
one = batch.nbytes // 8
store.insert_cache("m", [1] * 8, [batch.extract(0)], cache_type="assistant")
del batch
mx.clear_cache()
print(json.dumps((mx.get_active_memory() - base) / one))
"""

FULL = """
import importlib.util, json, sys
import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache
spec = importlib.util.spec_from_file_location("launcher", sys.argv[1])
launcher = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launcher)
mx.set_cache_limit(0)
store = launcher.KeptPrefixes(int(sys.argv[2]))
batch = BatchKVCache([0] * 4)
batch.update_and_fetch(mx.ones((4, 4, 512, 64)), mx.ones((4, 4, 512, 64)))
mx.eval(batch.state)
one = batch.nbytes // 4
base = mx.get_active_memory()
for at in range(4):
    store.insert_cache("m", [at] * int(sys.argv[3]), [batch.extract(at)], cache_type="assistant")
print(json.dumps((mx.get_peak_memory() - base) / one))
"""


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_what_is_kept_is_never_one_more_than_was_said(entries: int) -> None:
    """The oldest goes before the newest is evaluated: a plan counts so many and no more."""
    assert kept_at_most(entries, tokens=100) == pytest.approx(entries, abs=0.1)


def test_what_is_as_short_as_a_probe_is_not_kept() -> None:
    """The engine is told as many entries as are planned, and all are the clients'."""
    assert kept_at_most(3, tokens=5) == pytest.approx(0, abs=0.1)


def kept_at_most(entries: int, *, tokens: int) -> float:
    """Sequences' memory taken at the worst moment, where four are kept one after the other."""
    words = [sys.executable, "-c", FULL, str(LAUNCHER), str(entries), str(tokens)]
    return float(subprocess.check_output(words, timeout=60))


def sequences_held(which: str) -> float:
    """Memory of so many sequences is alive after one of a batch of eight was kept."""
    words = [sys.executable, "-c", MEASURE, str(LAUNCHER), which]
    return float(json.loads(subprocess.check_output(words, timeout=60)))


def test_a_kept_prefix_holds_its_whole_batch_upstream() -> None:
    """Needed: what the locked mlx-lm keeps of a batch of eight is eight sequences' memory."""
    assert sequences_held("upstream") > 7


def test_a_kept_prefix_holds_itself_only_here() -> None:
    """In effect: evaluated when it is stored, the batch can go."""
    assert sequences_held("ours") < 1.5


def test_streams_still_lack_logprobs_and_signs_upstream() -> None:
    """Needed: the call that makes a chunk passes no log probabilities, a tool call writes none."""
    source = inspect.getsource(server.APIHandler.handle_completion)
    streamed = source.split("if (\n                    self.stream", 1)[1].split("self.wfile")[0]
    assert 'current_state != "tool"' in streamed
    assert "logprobs" not in streamed


def test_scores_do_not_gather_while_a_call_is_generated() -> None:
    """In effect: told in parts, each of which the guard takes, and few are kept."""
    handler = launcher.Handler.__new__(launcher.Handler)
    handler.stream = handler.logprobs = True
    handler.request_id, handler.created, handler.system_fingerprint = "chatcmpl-1", 1, "f"
    handler.object_type, handler.requested_model = "chat.completion.chunk", "default_model"
    handler._signed, handler._scored = time.monotonic(), []  # noqa: SLF001
    handler.wfile = io.BytesIO()
    top = [{"id": 100_000 + n, "logprob": -12.345678901234567} for n in range(10)]
    gathered = 0
    for number in range(8000):  # far quicker than a second's worth, which is told as it passes
        handler._see(SimpleNamespace(token=number, logprob=-1.5, top_tokens=top))  # noqa: SLF001
        gathered = max(gathered, len(handler._scored))  # noqa: SLF001
    assert gathered < 1000
    rest = handler.generate_response("", "length")
    told = handler.wfile.getvalue() + b"data: " + json.dumps(rest).encode() + b"\n\n"

    async def read() -> list[Event]:
        reader = asyncio.StreamReader(limit=upstream.LINE_LIMIT)
        reader.feed_data(told)
        reader.feed_eof()
        answer, found = upstream.Answer(200, reader), []
        while block := await answer.block():
            found += mlx._events(block)  # noqa: SLF001
        return found

    *parts, end = asyncio.run(read())
    assert end == Finish("length")
    assert [score.token for part in parts for score in part.scored] == [*range(8000)]
    assert all(len(score.top) == 10 for part in parts for score in part.scored)


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize("whose", ["upstream", "ours"])
def test_a_completions_thoughts_are_lost_upstream_only(whose: str, kind: str) -> None:
    """Needed, and in effect: they are text, which has no other field; a chat's has."""
    marks = {"normal": [("<think>", "reasoning")], "reasoning": [("</think>", "normal")]}
    context = SimpleNamespace(text_sm=server.TextStateMachine(marks), tool_parser=None)
    generator: Any = SimpleNamespace(generate=lambda *_, **__: (context, iter(())))
    if whose == "ours":
        generator = launcher.Observed(generator, lambda _: None)
    request = server.CompletionRequest(kind, "x", [], None, None)
    told, _ = generator.generate(request, None, progress_callback=None)
    wrote = "<think>why</think>so"
    _, segments = server.TextStateMachine.split(told.text_sm.make_state("normal"), wrote)
    text = "".join(piece for state, piece in segments if state == "normal")
    assert text == (wrote if (whose, kind) == ("ours", "text") else "so")


def test_upstream_still_reads_a_completion_as_a_chat() -> None:
    """Needed: one state machine for both, and an answer whose text has no field for the rest."""
    source = inspect.getsource(server.APIHandler.handle_completion)
    assert "ctx.text_sm.make_state(ctx.initial_state)" in source
    assert "request_type" not in inspect.getsource(vars(server.ResponseGenerator)["_generate"])
    assert "choice.update(text=text)" in inspect.getsource(server.APIHandler.generate_response)


@pytest.mark.parametrize("wrong", [7, {"name": "weather"}, [None], {"name": "f", "arguments": {}}])
def test_a_call_that_is_none_breaks_upstream_only(wrong: object) -> None:
    """Needed, and in effect: left out here; the last is a whole one, which both pass on."""
    whole = isinstance(wrong, dict) and "arguments" in wrong
    upstream = server.ToolCallFormatter(lambda *_: wrong, [])
    if not whole:
        with pytest.raises((TypeError, AttributeError, KeyError)):
            upstream(["{}"])
    ours = server.ToolCallFormatter(launcher.whole_calls(lambda *_: wrong), [])
    assert [call["function"] for call in ours(["{}"])] == (
        [{"name": "f", "arguments": "{}"}] if whole else []
    )


def test_a_call_that_cannot_be_read_is_logged_upstream_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Needed, and in effect: what a model wrote is the client's, and does not go to the journal."""
    number = {"properties": {"x": {"type": "number"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": number}}]
    text = "<function=f>\n<parameter=x>\nsecret words\n</parameter>\n</function>"
    assert server.ToolCallFormatter(qwen3_coder.parse_tool_call, tools)([text]) == []
    assert "secret words" in caplog.text
    caplog.clear()
    ours = launcher.whole_calls(qwen3_coder.parse_tool_call)
    assert server.ToolCallFormatter(ours, tools)([text]) == []
    assert "Failed to parse tool call (ValueError: ValueError)" in caplog.text
    assert "secret words" not in caplog.text


@pytest.mark.parametrize("whose", ["upstream", "ours"])
def test_what_breaks_an_answer_is_told_upstream_only(
    whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Needed, and in effect: by its type and place here, and a client that left not at all."""
    kind = ThreadingHTTPServer if whose == "upstream" else launcher.Server

    def answer(error: Exception) -> None:
        raise error

    for error in (KeyError("secret words"), BrokenPipeError()):
        try:
            answer(error)
        except Exception:  # noqa: BLE001 - as socketserver does it
            kind.handle_error(kind.__new__(kind), None, "")
    told = capsys.readouterr().err
    assert "KeyError" in told
    assert "test_launcher.py" in told
    assert ("secret words" in told) == (whose == "upstream")
    assert ("BrokenPipeError" in told) == (whose == "upstream")


def test_the_server_still_sets_no_limits_and_is_not_strict() -> None:
    """Needed: no memory or cache limit, and a group that may silently be of one."""
    source = inspect.getsource(server)
    assert "set_memory_limit" not in source
    assert "set_cache_limit" not in source
    assert "strict=True" not in source


def test_the_backlog_is_still_short_upstream() -> None:
    """Needed: http.server's own backlog of five."""
    assert ThreadingHTTPServer.request_queue_size == 5
    assert launcher.Server.request_queue_size > 64


def test_the_server_still_listens_on_ports_alone() -> None:
    """Needed: it asks for the addresses of a host and a port, and has no other way."""
    assert "getaddrinfo" in inspect.getsource(vars(server)["_run_http_server"])
    assert "AF_UNIX" not in inspect.getsource(server)
    assert launcher.Server.address_family == socket.AF_UNIX


def test_what_the_launcher_takes_the_place_of_is_there() -> None:
    """In effect: ``main`` calls ``run``, which makes these with these arguments."""
    source = inspect.getsource(server.main)
    assert "run(args.host, args.port, ModelProvider(args))" in source
    run = inspect.getsource(server.run)
    assert "LRUPromptCache(model_provider.cli_args.prompt_cache_size)" in run
    assert "ResponseGenerator(model_provider, prompt_cache)" in run
    served = inspect.getsource(vars(server)["_run_http_server"])
    assert "system_fingerprint=get_system_fingerprint()" in served
    assert "httpd.serve_forever()" in served


LIMITS = """
import runpy, sys
import mlx.core as mx
from mlx_lm import server
def told():
    print(mx.set_memory_limit(1), mx.set_cache_limit(1))
server.main = told
sys.argv = [sys.argv[1], "--guard-memory-limit", "123456789", "--guard-cache-limit", "1000"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_limits_reach_mlx() -> None:
    """In effect: MLX tells the limits that it was given (setting one returns the one before)."""
    words = [sys.executable, "-I", "-c", LIMITS, str(LAUNCHER)]
    assert subprocess.check_output(words, timeout=60, text=True).split() == ["123456789", "1000"]


def test_a_group_that_does_not_come_about_is_no_group_of_one(tiny: Path) -> None:
    """In effect: a rank without its host file ends, where the bare server would serve alone."""
    words = [sys.executable, "-I", str(LAUNCHER), "--model", str(tiny),
             "--guard-backend", "ring", "--guard-world", "2"]  # fmt: skip
    ended = subprocess.run(words, timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "ring" in ended.stderr


@pytest.mark.parametrize("world", [2])
def test_the_world_size_is_asserted(tiny: Path, world: int) -> None:
    """In effect: without a back end the group is of one, and two were declared."""
    words = [sys.executable, "-I", str(LAUNCHER), "--model", str(tiny),
             "--guard-world", str(world)]  # fmt: skip
    ended = subprocess.run(words, timeout=60, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "the group has 1 ranks, 2 are declared" in ended.stderr


DAYS = (0.0, 86_400.0)  # the first two of 1970
DATED = "{{ strftime_now('%d %B %Y') }}"


@pytest.fixture
def as_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type, float], str]:
    """What a rank renders of a request that came at some time: its template asks for the date."""
    monkeypatch.setattr(chat_template_utils, "datetime", dt.datetime)  # restored at the end
    tokenizer = load_tokenizer(make_tiny_llama(tmp_path / "dated", template=DATED))

    def render(generator: type, clock: float) -> str:
        rank: Any = generator.__new__(generator)
        arguments = SimpleNamespace(chat_template_args={})
        rank.model_provider = SimpleNamespace(processor=None, cli_args=arguments)
        request = server.CompletionRequest("chat", "", [{"role": "user", "content": "x"}], None, {})
        vars(request)["clock"] = clock
        travelled = pickle.loads(pickle.dumps(request))  # as it goes to the other ranks
        asked = SimpleNamespace(chat_template_kwargs=None)
        return str(tokenizer.decode(rank._tokenize(tokenizer, travelled, asked)[0]))  # noqa: SLF001

    return render


def test_a_rank_still_looks_at_its_own_clock_upstream(
    as_a_rank: Callable[[type, float], str],
) -> None:
    """Needed: the date is that of the rendering, whenever the request came."""
    assert "1970" not in as_a_rank(server.ResponseGenerator, DAYS[0])


def test_every_rank_looks_at_the_requests_clock(as_a_rank: Callable[[type, float], str]) -> None:
    """In effect: two ranks on both sides of midnight render the same prompt."""
    rendered = [as_a_rank(launcher.OneClock, clock) for clock in DAYS]
    assert rendered == ["01 January 1970", "02 January 1970"]


def test_a_chat_carries_the_time_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """In effect: set where the request is read, on rank 0 only."""
    request = server.CompletionRequest("chat", "", [], None, {})
    monkeypatch.setattr(server.APIHandler, "handle_chat_completions", lambda _: request)
    before = time.time()
    handler = launcher.Handler.__new__(launcher.Handler)
    assert before <= vars(handler.handle_chat_completions())["clock"] <= time.time()
