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
    """A child that answers one question at a time; one that takes too long is replaced."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, patience_s: float = 20.0
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._patience_s = patience_s
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._pieces: dict[int, str] = {}

    async def facts(self, *, patience_s: float) -> TokenizerFacts:
        """Starts the child; raises Refusal with the reason if it cannot start."""
        told = await self._ask({"op": "facts"}, patience_s=patience_s)
        return TokenizerFacts(
            vocabulary=told["vocabulary"],
            chat=told["chat"],
            tools=told["tools"],
            thinking=told["thinking"],
            template_arguments=frozenset(told["template_arguments"]),
        )

    async def count_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        template_arguments: dict[str, Any],
    ) -> int:
        question = {
            "op": "chat",
            "messages": messages,
            "tools": tools,
            "template_arguments": template_arguments,
        }
        return int((await self._ask(question))["tokens"])

    async def count_text(self, prompt: str) -> int:
        return int((await self._ask({"op": "text", "prompt": prompt}))["tokens"])

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

    async def _ask(
        self, question: dict[str, Any], *, patience_s: float | None = None
    ) -> dict[str, Any]:
        async with self._turn:
            try:
                async with asyncio.timeout(patience_s or self._patience_s):
                    child = await self._running()
                    assert child.stdin is not None  # noqa: S101 - it was started with pipes
                    assert child.stdout is not None  # noqa: S101
                    child.stdin.write(json.dumps(question).encode() + b"\n")
                    await child.stdin.drain()
                    line = await child.stdout.readline()
            except TimeoutError:
                await self.close()
                raise bad_request("the prompt took too long to render or to tokenize") from None
            except OSError as error:
                await self.close()
                raise unavailable(f"the tokenizer broke: {error}", retry_after=1) from None
            except asyncio.CancelledError:
                # Its answer would be the next one's: start afresh.
                await self.close()
                raise
        if not line:
            await self.close()
            raise unavailable("the tokenizer died", retry_after=1)
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise bad_request(f"the prompt cannot be rendered: {answer['refused']}")
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
                process_group=0,
            )
        return self._child


__all__ = ["Refusal", "Tokenizer", "TokenizerFacts"]
