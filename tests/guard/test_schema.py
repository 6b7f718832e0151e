"""What a body of megabytes costs: it is given up at its first mistake."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from guard.schema import ChatRequest, CompletionRequest

MANY = 5000
SAID = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [0] * MANY},
        {"messages": [SAID | {"content": [0] * MANY}]},
        {"messages": [{"role": "assistant", "content": [0] * MANY}]},
        {"messages": [{"role": "assistant", "tool_calls": [0] * MANY}]},
        {"messages": [SAID | {f"x{at}": 0 for at in range(MANY)}]},
        {"messages": [SAID], "tools": [0] * MANY},
        {"messages": [SAID], "stop": [0] * MANY},
        {"messages": [SAID], "metadata": {f"x{at}": 0 for at in range(MANY)}},
        {"messages": [SAID], "logit_bias": {f"x{at}": "" for at in range(MANY)}},
        {"messages": [SAID] * 4 * MANY},
        {f"x{at}": 0 for at in range(MANY)},
    ],
)
def test_a_chat_of_mistakes_is_given_up_at_the_first(body: dict[str, Any]) -> None:
    """Collected, they would stop the guard's loop for longer than systemd waits for a beat."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", **body})
    assert caught.value.error_count() < 20


@pytest.mark.parametrize(
    "prompt", [[-1] * MANY, [[-1] * MANY], ["a"] * MANY, [[1]] * MANY, [None] * MANY]
)
def test_a_prompt_of_mistakes_is_given_up_at_the_first(prompt: list[Any]) -> None:
    """In each of the forms that a prompt can have."""
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "m", "prompt": prompt})
    assert caught.value.error_count() < 20
