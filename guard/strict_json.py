"""JSON as the standard has it, within bounds; what parsers read differently is refused.

Bounds are kept where the parser itself calls back or by one pass of C code: what was done for each
number of a body of megabytes held the event loop up for seconds.
"""

from __future__ import annotations

import json
import math
from typing import Any

from guard.errors import Refusal, bad_request

MAX_DEPTH = 64  # tool schemas nest deep; 20 is common
MAX_DIGITS = 40  # of a fraction: longer than any that means something here
MAX_CONTAINERS = 65_536  # objects and lists; a conversation of 16,384 messages in parts has 50,000
CONTAINERS = frozenset({dict, list})


def parse(body: bytes) -> dict[str, Any]:
    """The body as an object; raises Refusal (400) for anything else.

    Refused: other encodings than UTF-8, duplicate keys (parsers differ in which one counts), NaN
    and infinities, numbers beyond a double or of absurd length, lone surrogates (no UTF-8, so no
    tokenizer takes them), nesting beyond MAX_DEPTH, more than MAX_CONTAINERS objects and lists.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start}") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_Objects(), parse_constant=_constant, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error.msg} at {error.pos}") from None
    except RecursionError:
        raise bad_request(f"the body nests deeper than {MAX_DEPTH}") from None
    except ValueError:  # Python's own limit of digits (sys.set_int_max_str_digits)
        raise bad_request("a number is out of range") from None
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    _refuse_what_is_too_much(value)
    if "\\u" in text:  # only an escape can make a lone surrogate
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise bad_request("the body contains a lone surrogate") from None
    return value


class _Objects:
    """What the parser calls with each object's keys and values."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._seen += 1
        if self._seen > MAX_CONTAINERS:
            raise _too_many()
        value = dict(pairs)
        if len(value) != len(pairs):
            before: set[str] = set()
            for key, _ in pairs:
                if key in before:
                    raise bad_request(f"the key `{key[:80]}` stands twice in one object")
                before.add(key)
        return value


def _constant(name: str) -> Any:  # noqa: ANN401 - the json module's own signature
    raise bad_request(f"`{name}` is not JSON")


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise bad_request(f"the number {digits[:MAX_DIGITS]} is out of range")
    return value


def _refuse_what_is_too_much(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    containers = 1
    for _ in range(MAX_DEPTH):
        within: list[Any] = []
        for outer in level:
            values = outer.values() if isinstance(outer, dict) else outer
            if not CONTAINERS.isdisjoint(map(type, values)):
                within += [inner for inner in values if type(inner) in CONTAINERS]
        if not within:
            return
        level = within
        containers += len(level)
        if containers > MAX_CONTAINERS:
            raise _too_many()
    raise bad_request(f"the body nests deeper than {MAX_DEPTH}")


def _too_many() -> Refusal:
    return bad_request(f"the body has more than {MAX_CONTAINERS} objects and lists")
