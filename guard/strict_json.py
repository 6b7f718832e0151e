"""JSON as the standard has it, within bounds; what parsers read differently is refused."""

from __future__ import annotations

import json
import math
from typing import Any

from guard.errors import bad_request

MAX_DEPTH = 64  # tool schemas nest deep; 20 is common
MAX_DIGITS = 40  # longer than any number that means something here


def parse(body: bytes) -> dict[str, Any]:
    """The body as an object; raises Refusal (400) for anything else.

    Refused: other encodings than UTF-8, duplicate keys (parsers differ in which one counts), NaN
    and infinities, numbers beyond a double or of absurd length, lone surrogates (no UTF-8, so no
    tokenizer takes them), nesting beyond MAX_DEPTH.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error.msg} at {error.pos}") from None
    except RecursionError:
        raise bad_request(f"the body nests deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    if _too_deep(value):
        raise bad_request(f"the body nests deeper than {MAX_DEPTH}")
    if "\\u" in text:  # only an escape can make a lone surrogate
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise bad_request("the body contains a lone surrogate") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise bad_request(f"the key `{twice[:80]}` stands twice in one object")
    return value


def _constant(name: str) -> Any:  # noqa: ANN401 - the json module's own signature
    raise bad_request(f"`{name}` is not JSON")


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise bad_request(f"the number {digits[:MAX_DIGITS]} is out of range")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise bad_request(f"the number {digits[:MAX_DIGITS]} is out of range")
    return int(digits)


def _too_deep(value: Any) -> bool:  # noqa: ANN401 - any JSON
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
