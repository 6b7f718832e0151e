"""Talk to a model hub: which files a commit has, small files, and headers by range."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from hub import checkpoint
from hub.format import Sha256
from hub.lock import File
from planner.declared import Commit

T = TypeVar("T")

FIRST = 100_000  # bytes: nearly all headers fit, so that one request does
SMALL = 4_000_000  # bytes: the largest configuration or index file that is read
LISTING = 16_000_000  # bytes: the largest list of a repository's files that is read
REQUEST_SECONDS = 15.0  # without a byte
TOTAL_SECONDS = 120.0  # of one model, however the hub dawdles


class HubError(RuntimeError):
    """The hub did not give what was asked; the message says what and what to do."""


# What is read of the hub's answer; the client's own `ModelInfo` takes anything, and all of it.
class _Lfs(BaseModel):
    sha256: Sha256


def _inside(path: str) -> str:
    if {"", ".", ".."} & set(path.split("/")) or "\0" in path:
        raise ValueError("leads out of the repository, or is none")
    return path


class _Sibling(BaseModel):
    rfilename: Annotated[str, AfterValidator(_inside)]  # it becomes a path here and on hosts
    size: int | None = Field(default=None, ge=0)
    blob_id: str | None = Field(default=None, alias="blobId")
    lfs: _Lfs | None = None


class _Info(BaseModel):
    sha: Commit
    siblings: tuple[_Sibling, ...]


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository at one commit."""

    repo: str
    revision: str
    endpoint: str | None = None
    token: str | None = None
    deadline: float  # of time.monotonic()

    @property
    def where(self) -> str:
        return f"{self.repo}@{self.revision[:12]}"

    def files(self) -> tuple[File, ...]:
        """Every file of the commit. Raises HubError."""
        info = self._info("?blobs=true")
        if info.sha != self.revision:
            raise HubError(
                f"{self.where}: {self._endpoint} answered of another commit, {info.sha[:12]}; "
                "is nothing in between?"
            )
        return tuple(
            File(
                path=item.rfilename,
                size=item.size or 0,
                sha256=item.lfs.sha256 if item.lfs else None,
                oid=None if item.lfs else item.blob_id,
            )
            for item in info.siblings
        )

    def commit(self) -> str:
        """The commit that the revision names. Raises HubError."""
        return self._info("").sha

    def _info(self, query: str) -> _Info:
        # In place of `model_info`, which reads an answer of any length for however long it takes.
        revision = quote(self.revision, safe="")
        url = f"{self._endpoint}/api/models/{self.repo}/revision/{revision}{query}"
        try:
            validate_repo_id(self.repo)
            return _Info.model_validate_json(self._get(url, None, LISTING))
        except HFValidationError as error:
            raise HubError(f"{self.where}: not the name of a repository: {error}") from None
        except ValidationError:
            raise HubError(
                f"{self.where}: {self._endpoint} does not answer as a model hub does; "
                "is it one, and is nothing in between?"
            ) from None

    def text(self, file: File) -> bytes:
        """A small file's content. Raises HubError."""
        if file.size > SMALL:
            raise HubError(f"`{file.path}` is {file.size} bytes; expected at most {SMALL}")
        return self._content(file, None, SMALL)

    def header(self, file: File) -> dict[str, Any]:
        """The checked header of a safetensors file. Raises HubError or CheckpointError."""
        first = self._content(file, (0, min(FIRST, file.size) - 1), FIRST)
        length = checkpoint.header_length(first, file=file.path, size=file.size)
        raw = first[8 : 8 + length]
        if len(raw) < length:
            raw += self._content(file, (8 + len(raw), 7 + length), length - len(raw))
        if len(raw) < length:
            raise checkpoint.CheckpointError(
                f"`{file.path}`: the hub sent {len(raw)} of the header's {length} bytes"
            )
        return checkpoint.read_header(raw, file=file.path, size=file.size)

    def _content(self, file: File, span: tuple[int, int] | None, at_most: int) -> bytes:
        url = hf_hub_url(self.repo, file.path, revision=self.revision, endpoint=self._endpoint)
        return self._get(url, span, at_most)

    def _get(self, url: str, span: tuple[int, int] | None, at_most: int) -> bytes:
        """What is at an address or a part of it; stops reading after ``at_most`` bytes."""
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise HubError(
                f"{self.where}: the token (`hub.token`, `HF_TOKEN`) has what no token has"
            )
        headers = dict(build_hf_headers(token=self.token or False))
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1]}"

        def ask() -> bytes:
            parts: list[bytes] = []
            got = 0
            with get_session().stream(
                "GET", url, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True
            ) as response:
                _judge(response)
                skip = span[0] if span and response.status_code == httpx2.codes.OK else 0
                for part in response.iter_bytes():
                    parts.append(part)
                    got += len(part)
                    if got - skip >= at_most:
                        break
            return b"".join(parts)[skip : skip + at_most]

        return self._guarded(ask)

    def _guarded(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns; its failures as one sentence each."""
        try:
            return self._in_time(ask)
        except GatedRepoError:
            raise HubError(
                f"{self.where}: gated: accept its terms on the hub and give a token (`hub.token`)"
            ) from None
        except RevisionNotFoundError:
            raise HubError(f"{self.where}: the repository has no such commit") from None
        except RepositoryNotFoundError:
            hint = "" if self.token else ", or private: then give a token (`hub.token`)"
            raise HubError(f"{self.where}: not on {self._endpoint}{hint}") from None
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "no status")
            raise HubError(f"{self.where}: {self._endpoint} answered {status}") from None
        except httpx2.TimeoutException:
            raise HubError(
                f"{self.where}: {self._endpoint} sent nothing for {REQUEST_SECONDS:.0f} s"
            ) from None
        except (httpx2.HTTPError, OSError) as error:
            raise HubError(f"{self.where}: {self._endpoint} cannot be reached: {error}") from None
        # An address of it or of a proxy that is none; a proxy that its client lacks a package for.
        except (httpx2.InvalidURL, ValueError, ImportError) as error:
            raise HubError(f"{self.where}: {self._endpoint} cannot be asked: {error}") from None

    def _in_time(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns or raises before the deadline, however slowly the bytes come.

        In a thread, since a hub may dawdle with an address, a handshake or headers too, where only
        the time without a byte can be limited. Who is given up on ends with the program.
        """
        done: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                done.append(ask())
            except BaseException as error:  # noqa: BLE001 -- raised again below
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(max(0.0, self.deadline - time.monotonic()))
        if raised:
            raise raised[0]
        if not done:
            raise HubError(f"{self.where}: the hub took more than {TOTAL_SECONDS:.0f} s")
        return done[0]

    @property
    def _endpoint(self) -> str:
        return (self.endpoint or constants.ENDPOINT).rstrip("/")


def _judge(response: httpx2.Response) -> None:
    """Raise what the client raises for a status, by its headers: it would read all of the body."""
    bare = httpx2.Response(
        response.status_code,
        headers={name: it for name, it in response.headers.items() if name.startswith("x-")},
        request=response.request,
    )
    hf_raise_for_status(bare)


def within() -> float:
    """The deadline of one model, from now on, for ``Repository``."""
    return time.monotonic() + TOTAL_SECONDS


def head(repo: str, *, endpoint: str | None = None, token: str | None = None) -> str:
    """The commit that ``main`` of ``repo`` is at now. Raises HubError."""
    repository = Repository(
        repo=repo, revision="main", endpoint=endpoint, token=token, deadline=within()
    )
    return repository.commit()
