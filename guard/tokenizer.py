"""Prompts are counted by the model's own tokenizer and template, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guard.errors import Refusal, bad_request, unavailable

LINE_LIMIT = 64 << 20  # bytes; above any answer to a body that the door lets in
PIECES_KEPT = 300_000  # above the largest vocabularies


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    vocabulary: int
    chat: bool
    tools: bool
    thinking: bool
    template_arguments: frozenset[str]


class Tokenizer:
    """A child that answers one question at a time; one that takes too long is replaced.

    Who asked may go: the answer is waited for all the same, and nobody's.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, patience_s: float = 20.0
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._patience_s = patience_s
        self._start_patience_s = patience_s
        self._child: asyncio.subprocess.Process | None = None
        self._facts: TokenizerFacts | None = None
        self._turn = asyncio.Lock()
        self._pieces: dict[int, str] = {}
        self.failures = 0
        """Ends in a row that no question of a client's can be blamed for."""

    async def facts(self, *, patience_s: float) -> TokenizerFacts:
        """Starts the child; raises Refusal with the reason if it cannot start."""
        self._start_patience_s = patience_s
        await self._ask({"op": "text", "prompt": "", "most": 1})
        assert self._facts is not None  # noqa: S101 - it started
        return self._facts

    async def count_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        template_arguments: dict[str, Any],
        *,
        most: int,
    ) -> int:
        """Tokens of the prompt; raises Refusal where its beginning alone has over ``most``."""
        question = {
            "op": "chat",
            "most": most,
            "messages": messages,
            "tools": tools,
            "template_arguments": template_arguments,
        }
        return int((await self._ask(question))["tokens"])

    async def count_text(self, prompt: str, *, most: int) -> int:
        """The same of a plain prompt."""
        return int((await self._ask({"op": "text", "prompt": prompt, "most": most}))["tokens"])

    async def text_of(self, ids: list[int]) -> str:
        return str((await self._ask({"op": "untoken", "ids": ids}))["text"])

    async def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of single tokens (an incomplete character is U+FFFD)."""
        unknown = sorted({token for token in ids if token not in self._pieces})
        if unknown:
            told = (await self._ask({"op": "pieces", "ids": unknown}))["pieces"]
            if len(self._pieces) > PIECES_KEPT:
                self._pieces.clear()
            self._pieces.update(zip(unknown, told, strict=True))
        return [self._pieces[token] for token in ids]

    async def close(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()
        self._child = None

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Raises Refusal: 400 where the question is to blame, else 503."""
        await self._turn.acquire()
        exchange = asyncio.create_task(self._exchange(question))
        exchange.add_done_callback(self._exchanged)
        answer = await asyncio.shield(exchange)
        if "beyond" in answer:
            raise too_long(question["most"], f"more than {answer['beyond']}")
        if "refused" in answer:
            raise bad_request(f"the prompt cannot be rendered: {answer['refused']}")
        return answer

    def _exchanged(self, exchange: asyncio.Task[dict[str, Any]]) -> None:
        self._turn.release()
        if not exchange.cancelled():
            exchange.exception()  # who asked may be gone, and nobody else looks at it

    async def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._start_patience_s):
                child = await self._running()
        except TimeoutError:
            raise await self._failed("does not start") from None
        except OSError as error:
            raise await self._failed(f"does not start: {error}") from None
        assert child.stdin is not None  # noqa: S101 - it was started with pipes
        assert child.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(self._patience_s):
                child.stdin.write(json.dumps(question).encode() + b"\n")
                await child.stdin.drain()
                line = await child.stdout.readline()
        except TimeoutError:
            await self.close()
            raise bad_request("the prompt took too long to render or to tokenize") from None
        except OSError as error:
            raise await self._failed(f"broke: {error}") from None
        if not line:
            raise await self._failed("died")
        self.failures = 0
        return dict(json.loads(line))

    async def _failed(self, how: str) -> Refusal:
        self.failures += 1
        await self.close()
        return unavailable(f"the tokenizer {how}", retry_after=1)

    async def _running(self) -> asyncio.subprocess.Process:
        """The child, once it has said what it found; raises OSError."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        self._child = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            process_group=0,
        )
        assert self._child.stdout is not None  # noqa: S101 - it was started with pipes
        if not (line := await self._child.stdout.readline()):
            raise OSError("it died")
        told = json.loads(line)
        self._facts = TokenizerFacts(
            **{**told, "template_arguments": frozenset(told["template_arguments"])}
        )
        return self._child


def too_long(context_tokens: int, prompt: str, limit: int = 1) -> Refusal:
    """What OpenAI answers to a prompt that leaves no room for ``limit`` tokens."""
    return bad_request(
        f"this model's maximum context length is {context_tokens} tokens; the request has "
        f"{prompt} in its prompt and {limit} to generate",
        code="context_length_exceeded",
    )


__all__ = ["Refusal", "Tokenizer", "TokenizerFacts", "too_long"]
