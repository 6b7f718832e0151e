"""Refusals in OpenAI's format."""

from __future__ import annotations

import json


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake of ours
    """A request that gets an error instead of an answer.

    ``status`` is HTTP's; OpenAI's own client picks its exception by it and, for 408, 409, 429 and
    5xx, tries again by itself after ``retry_after`` seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.allow = allow
        """Of a 405: the methods that the path takes."""

    @property
    def kind(self) -> str:
        if self.status >= 500:  # noqa: PLR2004
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"  # noqa: PLR2004

    def body(self) -> bytes:
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def unavailable(message: str, *, retry_after: int, code: str = "unavailable") -> Refusal:
    return Refusal(503, message, code=code, retry_after=retry_after)
