"""Faults on demand: what a hub or the way to it may do to a download."""

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

Kind = Literal["status", "slow", "hang", "cut", "corrupt", "short"]
Place = Literal["api", "resolve", "content"]


@dataclass(kw_only=True)
class Fault:
    """One thing that goes wrong, for some requests."""

    kind: Kind
    """`status`: answers `status` instead. `slow`: `bytes_per_second`. `hang`: sends `after_bytes`
    of the content, then nothing. `cut`: sends `after_bytes`, then closes the connection.
    `corrupt`: the byte at `after_bytes` is another one. `short`: the content ends after
    `after_bytes`, and the headers agree."""
    path: str = "*"
    """A pattern of `org/name/path/of/file`, or of `org/name` for `api`."""
    at: Place = "content"
    """`api`: repository and tree; `resolve`: a file's address, HEAD and GET; `content`: wherever
    the bytes come from."""
    times: int | None = None
    """How many requests it strikes; None: all."""
    status: int = 500
    retry_after_s: int | None = None
    after_bytes: int = 0
    bytes_per_second: int = 1 << 20

    def strikes(self, place: Place, path: str) -> bool:
        """Whether it concerns a request."""
        return self.at == place and self.times != 0 and fnmatchcase(path, self.path)

    def to_json(self) -> dict[str, Any]:
        """Return what the control interface takes."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Self:
        """Read it."""
        return cls(**value)


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        """Start with none."""
        self.all: list[Fault] = []

    def strike(self, place: Place, path: str) -> Fault | None:
        """Find the first fault for a request, and count it."""
        for fault in self.all:
            if fault.strikes(place, path):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None
