"""Serves completions: admits, asks the engine, renders what comes."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from guard import fields, schema, strict_json, translate
from guard.ask import Ask, Delta, EngineBroke, Event, Progress, Usage
from guard.config import Config
from guard.errors import Refusal, bad_request, unavailable
from guard.merge import merged
from guard.metrics import Metrics
from guard.order import Order
from guard.places import Places
from guard.render import DONE, Choice, Kind, Rendering
from guard.reply import Reply
from guard.shape import shaped
from guard.tokenizer import Tokenizer, TokenizerFacts
from guard.vitals import Stream, Vitals
from guard.writer import Writer

CALLS = 128  # of one answer


class Asked(Protocol):
    def generate(self, ask: Ask) -> AsyncGenerator[Event]: ...


class Desk:
    def __init__(
        self, config: Config, engine: Asked, tokenizer: Tokenizer, vitals: Vitals, metrics: Metrics
    ) -> None:
        self._config = config
        self._engine = engine
        self._tokenizer = tokenizer
        self._vitals = vitals
        self._metrics = metrics
        self.places = Places(running=config.concurrency, waiting=config.waiting)
        self.facts: TokenizerFacts | None = None
        self.fingerprint = ""
        self.orders: set[Order] = set()

    async def serve(self, kind: Kind, order: Order, reply: Reply) -> None:
        """Answer one request; raises Refusal or EngineBroke before or within the answer."""
        with self.places.admitted():
            request = self._read(kind, order.take_body())
            await self._answer(kind, request, order, reply)

    def _read(self, kind: Kind, body: bytes) -> schema.ChatRequest | schema.CompletionRequest:
        table = fields.CHAT if kind == "chat" else fields.COMPLETION
        given = fields.refuse_what_is_refused(strict_json.parse(body), table)
        self._is_ours(given)
        if kind == "chat":
            return schema.check_chat(given)
        translate.refuse_long_lists(given.get("prompt"), self._config.context_tokens)
        return schema.check_completion(given)

    async def _answer(
        self,
        kind: Kind,
        request: schema.ChatRequest | schema.CompletionRequest,
        order: Order,
        reply: Reply,
    ) -> None:
        if self.facts is None:
            raise unavailable("not ready", retry_after=5)
        context = self._config.context_tokens
        if isinstance(request, schema.ChatRequest):
            prompts = [await translate.chat(request, self.facts, self._tokenizer, context)]
            echo = False
            scored = request.logprobs
            most_calls = _most_calls(request)
        else:
            prompts = await translate.completions(request, self.facts, self._tokenizer, context)
            echo, scored, most_calls = request.echo, request.logprobs is not None, 0
        order.streaming = request.stream
        order.prompt_tokens = sum(count for _, count in prompts)
        asks = [pair for pair in prompts for _ in range(request.n)]
        order.choices = len(asks)
        choices = [Choice(index=index) for index in range(len(asks))]
        answer = Rendering(kind=kind, model=self._config.served_name, fingerprint=self.fingerprint)
        writer = Writer(
            answer,
            choices,
            reply if request.stream else None,
            self._tokenizer,
            order.blocked,
            scored=scored,
        )
        sequences = [
            self._sequence(ask, count, order, stops=request.stops, most_calls=most_calls, echo=echo)
            for ask, count in asks
        ]
        last: dict[int, float] = {}
        async with aclosing(merged(sequences)) as events:
            async for index, event in events:
                if not isinstance(event, Progress):
                    now = time.monotonic()
                    if order.first_token_s is None:
                        order.first_token_s = now - order.began
                        self._metrics.first_token.observe(order.first_token_s)
                    if index in last and isinstance(event, Delta):
                        self._metrics.between_tokens.observe(now - last[index])
                    last[index] = now
                await writer.take(index, event)
        for choice in choices:
            if choice.finish is None:
                raise EngineBroke("the engine ended an answer without a reason")
            self._metrics.success(choice.finish)
        order.finish = ",".join(sorted({choice.finish or "" for choice in choices}))
        if request.stream:
            await reply.part(
                (answer.usage(choices, len(prompts)) if request.include_usage else b"") + DONE
            )
            await reply.end_stream()
        else:
            await reply.whole(200, answer.whole(choices, len(prompts), scored=scored))

    def _is_ours(self, given: dict[str, Any]) -> None:
        name, ours = given.get("model"), self._config.served_name
        if name is None:
            raise bad_request("you must provide a `model`", param="model")
        if name != ours:
            raise Refusal(
                404,
                f"the model `{str(name)[:200]}` does not exist here; this is `{ours}`",
                param="model",
                code="model_not_found",
            )

    async def _sequence(
        self,
        ask: Ask,
        prompt_tokens: int,
        order: Order,
        *,
        stops: Sequence[str],
        most_calls: int,
        echo: bool,
    ) -> AsyncGenerator[Event]:
        """One sequence, in a place of its own, with its signs told to the vitals."""
        queued = time.monotonic()
        async with self.places.place():
            entered = time.monotonic()
            order.queue_s = max(order.queue_s, entered - queued)
            self._metrics.queued.observe(entered - queued)
            stream = Stream(prompt_tokens, entered, order.blocked_since)
            order.streams.append(stream)
            self._vitals.enter(stream, entered)
            tokens = 0
            try:
                watched = self._watched(ask, stream)
                events = shaped(
                    watched, stops=stops, most_calls=most_calls, prompt_tokens=prompt_tokens
                )
                async with aclosing(events):
                    async for event in events:
                        if echo and ask.prompt and not isinstance(event, Progress):
                            yield Delta(ask.prompt)
                            echo = False
                        if isinstance(event, Delta):
                            tokens += max(1, len(event.scored))
                        elif isinstance(event, Usage):
                            tokens = event.completion
                            order.cached_tokens += event.cached
                            self._metrics.prefix_queries.inc(prompt_tokens)
                            self._metrics.prefix_hits.inc(event.cached)
                            if event.prompt != prompt_tokens:
                                self._metrics.miscounted.inc()
                        yield event
            finally:
                self._vitals.leave(stream, time.monotonic())
                order.tokens += tokens
                self._metrics.generated_tokens.inc(tokens)
                if stream.answering:
                    self._metrics.prompt_tokens.inc(prompt_tokens)

    async def _watched(self, ask: Ask, stream: Stream) -> AsyncGenerator[Event]:
        async with aclosing(self._engine.generate(ask)) as events:
            async for event in events:
                self._vitals.sign(stream, event, time.monotonic())
                yield event


def _most_calls(chat: schema.ChatRequest) -> int:
    if not chat.tools or chat.tool_choice == "none":
        return 0
    return CALLS if chat.parallel_tool_calls else 1
