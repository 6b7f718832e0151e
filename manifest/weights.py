"""A model's files on a host."""

from __future__ import annotations

from dataclasses import dataclass

from manifest import layout
from manifest.manifest import digest
from manifest.resources import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One file of a repository: path, bytes, and the hash that its hub gives.

    ``hash`` is ``sha256:…`` for large files (LFS) and ``git:…``, git's blob id, for the others.
    """

    path: str
    size: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A model at a commit of its repository, or a directory that somebody else keeps."""

    path: str
    record: str
    repo: str | None
    revision: str | None
    blobs: tuple[Blob, ...]

    def resource(self) -> Weights:
        """What the manifest holds of it."""
        return Weights(path=self.path, record=self.record, files=self.files)

    @property
    def files(self) -> str:
        """Digest of names, sizes and hashes: what the instance's inputs are made of."""
        return digest(sorted([blob.path, blob.size, blob.hash] for blob in self.blobs))


def snapshot(repo: str, revision: str, blobs: tuple[Blob, ...]) -> Snapshot:
    """Declare a repository's files at a commit, where every Hugging Face tool finds them."""
    folder = f"models--{repo.replace('/', '--')}"
    return Snapshot(
        path=f"{layout.HUB}/{folder}/snapshots/{revision}",
        record=f"{layout.RECORDS}/{folder}-{revision[:12]}.json",
        repo=repo,
        revision=revision,
        blobs=blobs,
    )


def directory(path: str, blobs: tuple[Blob, ...]) -> Snapshot:
    """Declare a directory that is on the host already: verified, recorded, never changed."""
    # Readable by its end, short enough for a file, and told from every other by a digest.
    name = path.strip("/").replace("/", "-")[-50:]
    record = f"{layout.RECORDS}/path-{name}-{digest(path)[:12]}.json"
    return Snapshot(path=path, record=record, repo=None, revision=None, blobs=blobs)
