"""Talk to a model hub: which files a commit has, small files, and headers by range."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status

from hub import checkpoint
from hub.lock import File

FIRST = 100_000  # bytes: nearly all headers fit, so that one request does
SMALL = 4_000_000  # bytes: the largest configuration or index file that is read
REQUEST_SECONDS = 15.0  # without a byte
TOTAL_SECONDS = 120.0  # of one model, however the hub dawdles


class HubError(RuntimeError):
    """The hub did not give what was asked; the message says what and what to do."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository at one commit."""

    repo: str
    revision: str
    endpoint: str | None = None
    token: str | None = None
    deadline: float = 0.0  # of time.monotonic()

    @property
    def where(self) -> str:
        return f"{self.repo}@{self.revision[:12]}"

    def files(self) -> tuple[File, ...]:
        """Every file of the commit. Raises HubError."""
        api = HfApi(endpoint=self.endpoint, token=self.token or False)

        def ask() -> tuple[File, ...]:
            # In place of `list_repo_tree`, which takes no timeout.
            info = api.model_info(
                self.repo, revision=self.revision, files_metadata=True, timeout=REQUEST_SECONDS
            )
            return tuple(
                File(
                    path=item.rfilename,
                    size=item.size or 0,
                    sha256=item.lfs.sha256 if item.lfs else None,
                    oid=None if item.lfs else item.blob_id,
                )
                for item in info.siblings or ()
            )

        files: tuple[File, ...] = self._guarded(ask)
        return files

    def commit(self) -> str:
        """The commit that the revision names. Raises HubError."""
        api = HfApi(endpoint=self.endpoint, token=self.token or False)
        info = self._guarded(
            lambda: api.model_info(self.repo, revision=self.revision, timeout=REQUEST_SECONDS)
        )
        return str(info.sha)

    def text(self, file: File) -> bytes:
        """A small file's content. Raises HubError."""
        if file.size > SMALL:
            raise HubError(f"`{file.path}` is {file.size} bytes; expected at most {SMALL}")
        return self._get(file.path, None, SMALL)

    def header(self, file: File) -> dict[str, Any]:
        """The checked header of a safetensors file. Raises HubError or CheckpointError."""
        first = self._get(file.path, (0, min(FIRST, file.size) - 1), FIRST)
        length = checkpoint.header_length(first, file=file.path, size=file.size)
        raw = first[8 : 8 + length]
        if len(raw) < length:
            raw += self._get(file.path, (8 + len(raw), 7 + length), length - len(raw))
        if len(raw) < length:
            raise checkpoint.CheckpointError(
                f"`{file.path}`: the hub sent {len(raw)} of the header's {length} bytes"
            )
        return checkpoint.read_header(raw, file=file.path, size=file.size)

    def _get(self, path: str, span: tuple[int, int] | None, at_most: int) -> bytes:
        """One file or a part of it; stops reading after ``at_most`` bytes."""
        url = hf_hub_url(self.repo, path, revision=self.revision, endpoint=self.endpoint)
        headers = dict(build_hf_headers(token=self.token or False))
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1]}"

        def ask() -> bytes:
            parts: list[bytes] = []
            got = 0
            with get_session().stream(
                "GET", url, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True
            ) as response:
                hf_raise_for_status(response)
                skip = span[0] if span and response.status_code == httpx2.codes.OK else 0
                for part in response.iter_bytes():
                    parts.append(part)
                    got += len(part)
                    self._in_time()
                    if got - skip >= at_most:
                        break
            return b"".join(parts)[skip : skip + at_most]

        content: bytes = self._guarded(ask)
        return content

    def _in_time(self) -> None:
        if self.deadline and time.monotonic() > self.deadline:
            raise HubError(f"{self.where}: the hub took more than {TOTAL_SECONDS:.0f} s")

    def _guarded(self, ask: Any) -> Any:  # noqa: ANN401
        """What ``ask`` returns; its failures as one sentence each."""
        self._in_time()
        try:
            return ask()
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

    @property
    def _endpoint(self) -> str:
        return self.endpoint or constants.ENDPOINT


def within(seconds: float = TOTAL_SECONDS) -> float:
    """The deadline ``seconds`` from now, for ``Repository``."""
    return time.monotonic() + seconds


def head(repo: str, *, endpoint: str | None = None, token: str | None = None) -> str:
    """The commit that ``main`` of ``repo`` is at now. Raises HubError."""
    repository = Repository(
        repo=repo, revision="main", endpoint=endpoint, token=token, deadline=within()
    )
    return repository.commit()
