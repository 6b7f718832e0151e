"""``models.lock``: what is known of each model, so that nobody needs MLX or the network again.

One JSON file beside the inventories. A model is keyed by ``repo@commit`` or by its directory,
what was traced of it by the versions of mlx-lm and MLX that traced it and by what it is to run on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub.format import FORMAT, wrong
from planner.declared import Model
from planner.record import Record
from planner.traced import Processor, Traced

ANEW = "remove it, and it is made anew"


class LockError(ValueError):
    """A lock that cannot be read, or a model that cannot be locked; one line for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Record):
    """One file of a repository at a commit, as the hub describes it."""

    path: str
    size: int
    sha256: str | None = None  # of a file kept by LFS, and of a local one
    oid: str | None = None  # git's hash of any other file: sha1 of `blob SIZE\0` and the content
    mtime_ns: int | None = None  # of a local one, when it was hashed


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Record):
    """The safetensors files in one line: how many tensors, bytes by type, how quantized."""

    tensors: int
    bytes_by_dtype: Mapping[str, int]
    quantization: Mapping[str, Any] | None = None
    # False: the shapes were made from the architecture, since the repository could not be reached.
    published: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """One model: its files, its checkpoint, and what was traced, by ``trace_key``."""

    source: str
    files: tuple[File, ...]
    checkpoint: Checkpoint
    traces: Mapping[str, Traced | str] = field(default_factory=dict)  # a sentence: refused
    content: str | None = None  # of a directory: digest of what was traced (`making.Directory`)

    @property
    def hashed(self) -> bool:
        """Whether all that a host is held to is known: a plan alone hashes no weights."""
        return all(file.sha256 or file.oid for file in self.files)

    @property
    def download_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            **({"content": self.content} if self.content else {}),
            "files": [
                {key: value for key, value in file.to_json().items() if value is not None}
                for file in self.files
            ],
            "checkpoint": self.checkpoint.to_json(),
            "traces": {
                key: traced if isinstance(traced, str) else traced.to_json()
                for key, traced in self.traces.items()
            },
        }

    @classmethod
    def from_json(cls, source: str, data: Mapping[str, Any]) -> Entry:
        return cls(
            source=source,
            content=data.get("content"),
            files=tuple(File(**file) for file in data["files"]),
            checkpoint=Checkpoint(**data["checkpoint"]),
            traces={
                key: traced if isinstance(traced, str) else Traced.from_json(traced)
                for key, traced in data["traces"].items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock(Record):
    """All models that are known, by source."""

    models: Mapping[str, Entry] = field(default_factory=dict)

    def entry(self, model: Model) -> Entry | None:
        return self.models.get(model.source)

    def traced(
        self, model: Model, processor: Processor, *, mlx_lm: str | None = None
    ) -> Traced | str | None:
        """What was traced of ``model``, why it could not be, or None where nobody tried.

        By the version ``mlx_lm`` (None: the one installed here, which the runtimes are locked to).
        """
        entry = self.models.get(model.source)
        return entry.traces.get(trace_key(processor, mlx_lm)) if entry else None

    def to_json(self) -> dict[str, object]:
        models = {source: self.models[source].to_json() for source in sorted(self.models)}
        return {"format": FORMAT, "models": models}


def trace_key(processor: Processor, mlx_lm: str | None = None) -> str:
    """What a trace for ``processor`` by a version (None: the one installed) is found by.

    And by the version of MLX that is installed, whose evaluation it is.
    """
    return f"{mlx_lm or version('mlx-lm')} {version('mlx')} {processor}"


def wrong_endpoint() -> str:
    """Why `HF_ENDPOINT` is no hub's address, "" where it may be or nobody has set it.

    The hub's client reads it when it is imported, which fails then, whatever it is to ask.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urlsplit(endpoint).port
    except ValueError as error:
        return f"HF_ENDPOINT: {endpoint}: no address of a hub: {error}"
    return ""


def read(path: Path | str) -> Lock:
    """The lock at ``path``; an empty one where there is no file. Raises LockError."""
    data = _data(Path(path))
    if words := wrong(data):
        raise LockError(f"{path}: not a models.lock: {words}; {ANEW}")
    try:
        models = {source: Entry.from_json(source, it) for source, it in data["models"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LockError(
            f"{path}: not a models.lock ({type(error).__name__}: {error}); {ANEW}"
        ) from None
    return Lock(models=models)


def _data(path: Path) -> dict[str, Any]:
    """The object at ``path``, of this format. Raises LockError."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Lock().to_json()
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LockError(f"{path}: not a models.lock: {error}; {ANEW}") from None
    if not isinstance(data, dict) or "format" not in data:
        raise LockError(f"{path}: not a models.lock; {ANEW}")
    if data["format"] != FORMAT:
        raise LockError(f"{path}: format {data['format']!r}; this program reads {FORMAT}; {ANEW}")
    return data


def write(lock: Lock, path: Path | str) -> None:
    """Replace the file at ``path`` in one step: a reader sees the old one or the new one."""
    _replace(Path(path), lock.to_json())


def _replace(path: Path, data: Mapping[str, object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(data, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _add(entry: Entry, path: Path) -> None:
    """Put ``entry`` into the file, beside what others have put there meanwhile."""
    try:
        with _alone(path.parent):
            data, made = _data(path), entry.to_json()
            there = data["models"].get(entry.source, {})
            if there.get("content") == entry.content:  # of the same files
                made["traces"] = {**there.get("traces", {}), **made["traces"]}
                made["files"] = _with_hashes(made["files"], there.get("files", ()))
            models = {**data["models"], entry.source: made}
            _replace(path, {**data, "models": dict(sorted(models.items()))})
    except OSError as error:
        raise LockError(f"{path}: cannot be written: {error.strerror}") from None


def _with_hashes(
    files: Iterable[Mapping[str, Any]], there: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """``files``, those without a hash as they are ``there``: a deploy may have hashed meanwhile."""
    known = {(file["path"], file["size"]): file for file in there if "sha256" in file}
    return [
        file if "sha256" in file or "oid" in file else known.get((file["path"], file["size"]), file)
        for file in files
    ]


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other programs from writing: by the directory, since the file itself is replaced."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def ensure(
    wanted: Iterable[tuple[Model, Processor]],
    path: Path | str,
    *,
    mlx_lm: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    hashed: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Lock:
    """A lock in which each of ``wanted`` was traced by ``mlx_lm``; fetches what is missing.

    Those are models, each with what it is to run on. ``mlx_lm`` is a version (None: the one
    installed here, which the runtimes are locked to). Neither the network nor MLX is touched where
    nothing is; a directory that is here is looked at, and traced again where it holds another model
    than the lock says. ``endpoint`` is the hub's address (None: what ``HF_ENDPOINT`` says, else the
    public one). ``hashed``: with the hashes of a directory's files, which a deploy holds a host to,
    and which take a minute for 15 GB. ``progress`` is told what takes time. Raises LockError with a
    line for each model that could not be locked, after the others were written.
    """
    path = Path(path)
    lock = read(path)
    mlx_lm = mlx_lm or version("mlx-lm")
    known = dict(lock.models)
    asked = {
        (model.source, processor): model
        for model, processor in wanted
        if lock.traced(model, processor, mlx_lm=mlx_lm) is None
        or (model.path and Path(model.path).is_dir())
        or (hashed and not known[model.source].hashed)
    }
    if not asked:
        return lock
    from hub import making  # noqa: PLC0415 -- a complete lock needs none of what this imports

    def begin(words: str) -> None:
        if not os.access(path.parent, os.W_OK):
            raise LockError(f"{path}: cannot be written: `{path.parent}` is no writable directory")
        progress(words)

    mistakes: list[str] = []
    maker = making.Maker(
        mlx_lm=mlx_lm, endpoint=endpoint, token=token, hashed=hashed, progress=begin
    )
    for (source, processor), model in asked.items():
        try:
            made = maker.entry(model, processor, known.get(source))
        except making.Failed as error:
            mistakes.append(f"{model.slug}: {error}")
        else:
            if made != known.get(source):
                _add(made, path)
            known[source] = made
    if mistakes:
        raise LockError("\n".join(dict.fromkeys(mistakes)))
    return Lock(models=known)
