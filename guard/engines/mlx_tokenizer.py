"""Counts prompts as mlx_lm.server will: its own tokenizer code, in a process of its own.

Runs under the runtime's Python, without MLX (whose import on CUDA takes memory on the GPU): the
package ``mlx_lm`` is stood in for by its folder, so that ``mlx_lm.tokenizer_utils`` and the tool
parsers load and the package's own ``__init__``, which imports MLX, does not run.

One JSON object a line on stdin, one a line on stdout, in order; first one with what it found.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import signal
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
CHARACTERS = 8  # a token of text has fewer on average, in whatever language


class BeyondError(Exception):
    """More tokens than may be."""


class Counter:
    def __init__(self, model: Path) -> None:
        spec = find_spec("mlx_lm")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("mlx_lm is not installed here")
        package = types.ModuleType("mlx_lm")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["mlx_lm"] = package
        utils = importlib.import_module("mlx_lm.tokenizer_utils")
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        self._tokenizer = utils.load(model, eos_token_ids=config.get("eos_token_id"))
        text = config.get("text_config", {})
        self._vocabulary = int(config.get("vocab_size") or text.get("vocab_size") or 0)

    def facts(self) -> dict[str, Any]:
        template = getattr(self._tokenizer, "chat_template", None) or ""
        words = set(re.findall(r"[a-z_]+", template if isinstance(template, str) else ""))
        known = {"enable_thinking", "thinking", "reasoning_effort"}
        return {
            "vocabulary": self._vocabulary or len(self._tokenizer),
            "chat": bool(self._tokenizer.has_chat_template),
            "tools": bool(self._tokenizer.has_tool_calling),
            "thinking": bool(self._tokenizer.has_thinking),
            "template_arguments": sorted(known & words),
        }

    def chat(self, ask: dict[str, Any]) -> dict[str, Any]:
        """As server.py's ``_tokenize`` does it, the part before the last user turn included."""
        messages = ask["messages"]
        for message in messages:
            if isinstance(content := message.get("content"), list):
                message["content"] = "".join(part["text"] for part in content)
            elif content is None:
                message["content"] = ""
            self._give_up_what_cannot_fit(message["content"], ask["most"])
            for call in message.get("tool_calls") or ():
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        arguments = {"tools": ask.get("tools"), "tokenize": True, **ask["template_arguments"]}
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, **arguments
        )
        leading = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
        if leading and messages[-1]["role"] == "user":
            self._tokenizer.apply_chat_template(
                [*messages[:leading], {"role": "user", "content": ""}],
                add_generation_prompt=False,
                **arguments,
            )
        return {"tokens": len(prompt)}

    def text(self, ask: dict[str, Any]) -> dict[str, Any]:
        self._give_up_what_cannot_fit(ask["prompt"], ask["most"])
        return {"tokens": len(self._tokenizer.encode(ask["prompt"]))}

    def untoken(self, ask: dict[str, Any]) -> dict[str, Any]:
        """The text of token ids, if the engine would read the same ids from it."""
        text = self._tokenizer.decode(ask["ids"])
        if list(self._tokenizer.encode(text)) != ask["ids"]:
            raise ValueError("these token ids are not what the engine would read from their text")
        return {"text": text}

    def _give_up_what_cannot_fit(self, text: str, most: int) -> None:
        """A text of megabytes would keep all others waiting for seconds: its beginning will do."""
        start = text[: CHARACTERS * most]
        # Where it was cut, a token or two may be others.
        if len(start) < len(text) and (tokens := len(self._tokenizer.encode(start))) > most + 8:
            raise BeyondError(tokens)

    def pieces(self, ask: dict[str, Any]) -> dict[str, Any]:
        return {"pieces": [self._tokenizer.decode([token]) for token in ask["ids"]]}


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    counter = Counter(Path(sys.argv[1]))
    operations = {
        "chat": counter.chat,
        "text": counter.text,
        "untoken": counter.untoken,
        "pieces": counter.pieces,
    }
    sys.stdout.write(json.dumps(counter.facts()) + "\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        ask = json.loads(line)
        try:
            answer = operations[ask["op"]](ask)
        except BeyondError as beyond:
            answer = {"beyond": beyond.args[0]}
        except Exception as error:  # noqa: BLE001 - templates raise anything; the client is told
            answer = {"refused": f"{type(error).__name__}: {error}"[:500]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
