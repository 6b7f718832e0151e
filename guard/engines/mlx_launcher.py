"""Starts mlx_lm.server inside its runtime, with what its HTTP interface cannot reach.

Runs under the runtime's own Python, where nothing of the guard is installed: standard library, mlx
and mlx-lm only.  Five entries, each with its reason; tests/guard/test_launcher.py fails for each
when the locked mlx-lm no longer needs it, and when it no longer applies.

1. ``set_memory_limit`` and ``set_cache_limit``: the server sets none on CUDA, and MLX's own is 95 %
   of the whole device.
2. ``init(strict=True)`` and the world size: with one variable missing a rank silently becomes a
   group of one that answers HTTP.  ``OneClock``: every rank renders the chat template itself, and
   a template that asks for the date would differ at midnight, which deadlocks the group.
3. ``KeptPrefixes``: stored caches are unevaluated slices that each keep their whole padded batch
   alive, and an exact hit leaves nothing to process, which ends generation for good. What is
   shorter than ``WORTH_KEEPING`` is not kept: the guard's probe would push out a client's.
4. ``Handler``: streams carry no log probabilities and are silent while a tool call is generated,
   so a client could have the former, and the guard a sign of life, only without streaming, where
   a request cannot be called off.  ``whole_calls``: a tool call that is JSON but no call breaks the
   whole answer off, where one that is no JSON is left out of it, and logged with what was in it.
   A completion loses its thoughts and calls: they are taken out of the text, and have no field.
5. ``Server``: the listen backlog is 5, ``/guard`` tells what only the engine knows, and a port of
   loopback is open to everybody on the host where ranks use the host's network: a socket is not.
   An answer that breaks is logged with the error's text, which may be a client's words.
"""
# ruff: noqa: ANN401 - mlx-lm is untyped

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import mlx.core as mx
from mlx_lm import server as upstream_server
from mlx_lm.models.cache import LRUPromptCache
from transformers.utils import chat_template_utils

server: Any = upstream_server  # untyped, and its classes are stood in for here

PR_SET_PDEATHSIG = 1
SIGN_EVERY_S = 1.0
SCORES_AT_ONCE = 256  # of ten alternatives each: 0.1 MB, where the guard takes 1 MiB at once
WORTH_KEEPING = 8  # tokens; the probe is of one, with what a tokenizer adds, and two that follow


class KeptPrefixes(LRUPromptCache):
    """Entry 3."""

    def insert_cache(
        self, model: Any, tokens: list[int], prompt_cache: list[Any], **how: Any
    ) -> None:
        if not self.max_size or len(tokens) < WORTH_KEEPING:
            return
        # What makes room for it goes before it is evaluated, so that there is never one more.
        super().insert_cache(model, tokens, prompt_cache, **how)
        mx.eval([layer.state for layer in prompt_cache])

    def fetch_nearest_cache(self, model: Any, tokens: list[int]) -> tuple[Any, list[int]]:
        if len(tokens) < WORTH_KEEPING:
            return None, tokens
        cache, rest = super().fetch_nearest_cache(model, tokens)
        if rest:
            return cache, rest
        del cache  # the exact hit: look again for all but the last token; what is found is then
        # shorter than the prompt, so that something is left to process
        cache, rest = super().fetch_nearest_cache(model, tokens[:-1])
        return cache, [*rest, tokens[-1]]


class Observed:
    """A response generator whose tokens one handler sees on their way."""

    def __init__(self, inner: Any, see: Callable[[Any], None]) -> None:
        self._inner = inner
        self._see = see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(self, *args: Any, **kwargs: Any) -> tuple[Any, Iterator[Any]]:
        context, tokens = self._inner.generate(*args, **kwargs)
        context.tool_parser = whole_calls(context.tool_parser)
        if args[0].request_type == "text":
            context.text_sm = server.TextStateMachine()  # of no marks: all is text
        return context, self._watched(tokens)

    def _watched(self, tokens: Iterator[Any]) -> Iterator[Any]:
        for token in tokens:
            self._see(token)
            yield token


def whole_calls(parse: Callable[..., Any]) -> Callable[..., Any]:
    """A model's tool parser that gives calls with arguments or raises the one error looked for."""

    def parsed(text: str, tools: Any) -> list[dict[str, Any]]:
        try:
            found = parse(text, tools)
            calls = found if isinstance(found, list) else [found]
            # A `type`, say, that a model writes beside them has its place elsewhere.
            return [
                {key: call[key] for key in call.keys() & {"id", "name"}}
                | {"arguments": call["arguments"]}
                for call in calls
            ]
        except Exception as error:  # noqa: BLE001 - parsers raise anything
            # Its text, which mlx-lm would log, may be what the model wrote.
            raise ValueError(type(error).__name__) from None

    return parsed


class Handler(upstream_server.APIHandler):
    """Entry 4."""

    def __init__(self, response_generator: Any, *args: Any, **kwargs: Any) -> None:
        self._scored: list[dict[str, Any]] = []
        self._signed = time.monotonic()
        observed: Any = Observed(response_generator, self._see)
        super().__init__(observed, *args, **kwargs)

    def _see(self, token: Any) -> None:
        if not self.stream:
            return
        if self.logprobs:
            top = [[entry["id"], entry["logprob"]] for entry in token.top_tokens]
            self._scored.append({"id": token.token, "logprob": token.logprob, "top": top})
        now = time.monotonic()
        if now - self._signed > SIGN_EVERY_S or len(self._scored) >= SCORES_AT_ONCE:
            self._signed = now
            self.wfile.write(self._sign())
            self.wfile.flush()

    def _sign(self) -> bytes:
        """A comment, or a chunk of the scores of what makes no text: a call may have thousands."""
        if not self._scored:
            return b": alive\n\n"
        return f"data: {json.dumps(self.generate_response('', None))}\n\n".encode()

    def generate_response(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        response: dict[str, Any] = super().generate_response(*args, **kwargs)
        if self.stream and self._scored:
            response["choices"][0]["logprobs"] = {"content": self._scored}
            self._scored = []
        return response

    def handle_chat_completions(self) -> Any:
        request = super().handle_chat_completions()
        vars(request)["clock"] = time.time()  # travels to the other ranks with the request
        return request

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        if self.path != "/guard":
            super().do_GET()  # type: ignore[no-untyped-call]
            return
        body = json.dumps(_facts(self.response_generator)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The guard logs requests, with what matters."""


def _facts(generator: Any) -> dict[str, Any]:
    return {
        "fingerprint": server.get_system_fingerprint(),
        "batchable": generator.model_provider.is_batchable,
        "world": mx.distributed.init().size(),
        "active_bytes": mx.get_active_memory(),
        "peak_bytes": mx.get_peak_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "prompt_cache_entries": len(generator.prompt_cache),
        "prompt_cache_bytes": generator.prompt_cache.nbytes,
    }


class OneClock(server.ResponseGenerator):  # type: ignore[misc]
    """Entry 2, too."""

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        clock = vars(request).get("clock", 0.0)

        class Then(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Then:
                return cls.fromtimestamp(clock, tz)

        vars(chat_template_utils)["datetime"] = Then
        return super()._tokenize(tokenizer, request, args)


class Server(ThreadingHTTPServer):
    """Entry 5."""

    address_family = socket.AF_UNIX
    request_queue_size = 128

    def server_bind(self) -> None:
        """As HTTPServer's, which would ask for the name of an address."""
        Path(str(self.server_address)).unlink(missing_ok=True)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0

    def handle_error(self, *_: Any) -> None:
        """What broke an answer and where, without its text, which may be a client's words."""
        error = sys.exc_info()[1]
        if error is None or isinstance(error, ConnectionError):  # the guard called it off
            return
        traceback.print_tb(error.__traceback__)
        print(type(error).__name__, file=sys.stderr, flush=True)


def run(_host: str, _port: int, provider: Any, *, path: Any, world: int = 1) -> None:
    """In place of ``server.run``, with our prompt cache, handler and server, on a socket."""
    group = mx.distributed.init()
    if group.size() != world:
        raise SystemExit(f"the group has {group.size()} ranks, {world} are declared")
    arguments = provider.cli_args
    limit = (
        {} if arguments.prompt_cache_bytes is None else {"max_bytes": arguments.prompt_cache_bytes}
    )
    generate = OneClock if world > 1 else server.ResponseGenerator
    generator = generate(provider, KeptPrefixes(arguments.prompt_cache_size, **limit))
    if group.rank() == 0:
        fingerprint = server.get_system_fingerprint()
        Server(path, partial(Handler, generator, system_fingerprint=fingerprint)).serve_forever()
    else:
        generator.join()


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--guard-socket")
    parser.add_argument("--guard-memory-limit", type=int)
    parser.add_argument("--guard-cache-limit", type=int)
    parser.add_argument("--guard-backend")
    parser.add_argument("--guard-world", type=int, default=1)
    mine, sys.argv[1:] = parser.parse_known_args()

    # Whatever kills the guard takes the engine along: nobody else would ever stop it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        raise SystemExit("the guard is gone")
    if mine.guard_memory_limit is not None:
        mx.set_memory_limit(mine.guard_memory_limit)
    if mine.guard_cache_limit is not None:
        mx.set_cache_limit(mine.guard_cache_limit)
    if mine.guard_backend is not None:
        mx.distributed.init(strict=True, backend=mine.guard_backend)
    server.run = partial(run, path=mine.guard_socket, world=mine.guard_world)
    server.main()


if __name__ == "__main__":
    main()
