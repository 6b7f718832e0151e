"""The repositories of a hub: directories, addressed as git and Git LFS would address them."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from lab.machine import LabError, read_json, write_json

_LFS_SUFFIXES = {".safetensors", ".gguf", ".bin", ".npz", ".pt"}
_LFS_FROM_BYTES = 10 << 20
"""The public hub wants files from 10 MB on in LFS."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a commit."""

    path: str
    """Within the repository."""
    size: int
    """Bytes."""
    oid: str
    """The git blob's id: of the content, or of the LFS pointer."""
    sha256: str | None
    """Of the content, for an LFS file."""
    pointer_size: int | None
    at: str
    """Where the content is read."""

    @property
    def etag(self) -> str:
        """What a download is cached under."""
        return self.sha256 or self.oid


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One state of a repository."""

    sha: str
    files: dict[str, Entry]
    folders: dict[str, str]
    """Path to git tree id."""


@dataclass(kw_only=True)
class Repository:
    """A repository: its commits and what names them."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Branch or tag to commit."""

    def commit(self, revision: str) -> Commit | None:
        """Find what a branch, a tag or a commit id names."""
        return self.commits.get(self.refs.get(revision, revision))


class Store:
    """All repositories of one hub, and the tokens it knows."""

    def __init__(self) -> None:
        """Start with none."""
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, list[str]] = {}
        """Token to the private and gated repositories it may read, as patterns."""

    def add(
        self,
        name: str,
        directory: Path,
        *,
        private: bool = False,
        gated: bool = False,
        branch: str = "main",
    ) -> str:
        """Commit a directory's files to a branch and return the commit's id.

        The id depends on names, contents and the commits before it alone. The files are served
        from where they are, and must not change.
        """
        if name.count("/") != 1:
            raise LabError(f"`{name}` is not a repository's name: `organization/name`")
        repository = self.repositories.setdefault(name, Repository(name=name))
        repository.private, repository.gated = private, gated
        files = {entry.path: entry for entry in _entries(directory)}
        folders = _trees(files)
        parent = repository.refs.get(branch)
        if parent and repository.commits[parent].folders == folders:
            return parent  # nothing to commit
        sha = _commit_id(folders[""], parent)
        repository.commits[sha] = Commit(sha=sha, files=files, folders=folders)
        repository.refs[branch] = sha
        return sha

    def may_read(self, token: str | None, repository: Repository) -> bool:
        """Whether a token opens a private or gated repository."""
        patterns = self.tokens.get(token or "", [])
        return any(fnmatchcase(repository.name, pattern) for pattern in patterns)

    def save(self, path: Path) -> None:
        """Write down everything but the contents."""
        value = {
            "tokens": self.tokens,
            "repositories": [asdict(one) for one in self.repositories.values()],
        }
        write_json(path, value, mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        value = read_json(path)
        store = cls()
        store.tokens = value["tokens"]
        for one in value["repositories"]:
            one["commits"] = {sha: _read_commit(commit) for sha, commit in one["commits"].items()}
            store.repositories[one["name"]] = Repository(**one)
        return store


def _read_commit(value: dict[str, Any]) -> Commit:
    files = {path: Entry(**entry) for path, entry in value["files"].items()}
    return Commit(sha=value["sha"], files=files, folders=value["folders"])


def _entries(directory: Path) -> Iterator[Entry]:
    if not directory.is_dir():
        raise LabError(f"`{directory}` is not a directory")
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield _entry(path, path.relative_to(directory).as_posix())


def _entry(path: Path, name: str) -> Entry:
    size = path.stat().st_size
    if path.suffix not in _LFS_SUFFIXES and size < _LFS_FROM_BYTES:
        oid = _git_id("blob", path.read_bytes())
        return Entry(path=name, size=size, oid=oid, sha256=None, pointer_size=None, at=str(path))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # The pointer file that git has in its place (git-lfs, docs/spec.md).
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )
    return Entry(
        path=name,
        size=size,
        oid=_git_id("blob", pointer),
        sha256=sha256,
        pointer_size=len(pointer),
        at=str(path),
    )


def _git_id(kind: str, content: bytes) -> str:
    """Return the id that git gives an object."""
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _trees(files: dict[str, Entry]) -> dict[str, str]:
    """Return the git tree id of every folder; the root's is under the empty string."""
    children: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for path, entry in files.items():
        folder, _, name = path.rpartition("/")
        children.setdefault(folder, {})[name] = ("100644", entry.oid)
        while folder:
            parent = folder.rpartition("/")[0]
            children.setdefault(parent, {})
            folder = parent
    ids: dict[str, str] = {}
    for folder in sorted(children, key=lambda path: path.count("/") + bool(path), reverse=True):
        # git sorts folders as if their names ended with a slash.
        content = b"".join(
            f"{mode} {name}\0".encode() + bytes.fromhex(oid)
            for name, (mode, oid) in sorted(
                children[folder].items(), key=lambda item: item[0] + "/" * (item[1][0] == "40000")
            )
        )
        ids[folder] = _git_id("tree", content)
        if folder:
            parent, _, name = folder.rpartition("/")
            children[parent][name] = ("40000", ids[folder])
    return ids


def _commit_id(tree: str, parent: str | None) -> str:
    by = "lab <lab@localhost> 1700000000 +0000"
    before = f"parent {parent}\n" if parent else ""
    return _git_id("commit", f"tree {tree}\n{before}author {by}\ncommitter {by}\n\nlab\n".encode())
