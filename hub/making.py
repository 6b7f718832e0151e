"""Make a lock entry: a model's files and headers from the hub or a directory, then its trace."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hub import checkpoint, tracing
from hub.format import wrong
from hub.lock import Checkpoint, Entry, File, trace_key, wrong_endpoint
from planner.amounts import gib
from planner.declared import Model
from planner.traced import Processor, Traced

# What mlx-lm downloads of a repository (mlx_lm/utils.py, DEFAULT_ALLOW_PATTERNS).
WANTED = (
    "*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "tiktoken.model",
    "*.txt", "*.jsonl", "*.jinja",
)  # fmt: skip
# What mlx-lm reads to build a model (mlx_lm/utils.py, load_model).
CONFIGURATION = ("config.json", "generation_config.json", "hf_quant_config.json")


class Failed(RuntimeError):  # noqa: N818 -- raised once for each model, collected by the caller
    """A model that could not be locked, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes entries; the fields are ``hub.lock.ensure``'s."""

    mlx_lm: str
    endpoint: str | None
    token: str | None
    hashed: bool
    progress: Callable[[str], None]

    def entry(self, model: Model, processor: Processor, known: Entry | None) -> Entry:
        """What the lock keeps of ``model``, traced for ``processor``; ``known`` where it is so.

        Raises Failed.
        """
        try:
            if model.path is None:
                return self._from_hub(model, processor, known)
            return self._from_directory(model, processor, Path(model.path), known)
        except (checkpoint.CheckpointError, tracing.TraceError) as error:
            raise Failed(f"{model.source}: {error}") from None
        except OSError as error:
            raise Failed(f"{model.source}: {error.strerror}: {error.filename}") from None

    def _from_hub(self, model: Model, processor: Processor, known: Entry | None) -> Entry:
        if mistake := wrong_endpoint():
            raise Failed(f"{model.source}: {mistake}")
        from hub import client  # noqa: PLC0415 -- a directory needs no hub

        assert model.repo, "a model has a repository or a path"  # noqa: S101
        assert model.revision, "a repository has a revision"  # noqa: S101
        self.progress(f"{model.source}: headers, then a trace")
        repository = client.Repository(
            repo=model.repo,
            revision=model.revision,
            endpoint=self.endpoint,
            token=self.token,
            deadline=client.within(),
        )
        try:
            wanted, configuration, weights = _checked(repository.where, repository.files())
            texts = {file.path: repository.text(file) for file in configuration}
            _configured(repository.where, texts)
            headers = {file.path: repository.header(file) for file in weights}
        except client.HubError as error:
            raise Failed(str(error)) from None
        traces = known.traces if known else {}
        return self._traced(model, processor, wanted, texts, headers, traces)

    def _from_directory(
        self, model: Model, processor: Processor, path: Path, known: Entry | None
    ) -> Entry:
        directory = Directory.read(path)
        same = known is not None and known.content == directory.content
        traces = known.traces if known and same else {}
        traced = trace_key(processor, self.mlx_lm) in traces
        if not traced:
            self.progress(f"{model.source}: headers, then a trace")
        files = self._with_hashes(model, directory, known)
        if known and traced:
            return replace(known, files=files)
        made = self._traced(model, processor, files, directory.texts, directory.headers(), traces)
        return replace(made, content=directory.content)

    def _with_hashes(
        self, model: Model, directory: Directory, known: Entry | None
    ) -> tuple[File, ...]:
        """The directory's files with their hashes, as far as they are known or wanted."""
        before = {file.path: file for file in known.files} if known else {}

        def is_known(file: File) -> bool:
            was = before.get(file.path)
            return (
                was is not None
                and was.sha256 is not None
                and was.size == file.size
                # Another machine's copy has another time: only who needs the hash looks again.
                and (was.mtime_ns == file.mtime_ns or not self.hashed)
            )

        made: dict[str, File] = {
            file.path: before[file.path] for file in directory.files if is_known(file)
        }
        # These were read anyway, so that their hashes are those of what was traced.
        for name, text in directory.texts.items():
            if name not in made or made[name].sha256 != hashlib.sha256(text).hexdigest():
                (file,) = (one for one in directory.files if one.path == name)
                made[name] = replace(file, sha256=hashlib.sha256(text).hexdigest())
        left = [file for file in directory.files if file.path not in made]
        if left and self.hashed:
            self.progress(f"{model.source}: hashes of {gib(sum(file.size for file in left))}")
        for file in left:
            sha256 = _sha256(directory.path / file.path) if self.hashed else None
            made[file.path] = replace(file, sha256=sha256)
        return tuple(made[file.path] for file in directory.files)

    def _traced(
        self,
        model: Model,
        processor: Processor,
        files: tuple[File, ...],
        texts: Mapping[str, bytes],
        headers: Mapping[str, Mapping[str, Any]],
        traces: Mapping[str, Traced | str],
    ) -> Entry:
        traced = tracing.trace(texts, headers, processor)
        if isinstance(traced, Traced) and traced.mlx_lm != self.mlx_lm:
            raise Failed(
                f"{model.source}: mlx-lm {traced.mlx_lm} is installed here, the hosts get "
                f"{self.mlx_lm}; install the locked one"
            )
        made = Entry(
            source=model.source,
            files=files,
            checkpoint=summary(texts, headers),
            traces={**traces, trace_key(processor, self.mlx_lm): traced},
        )
        # In the lock it would keep all others from being read, too.
        if words := wrong({"models": {model.source: json.loads(json.dumps(made.to_json()))}}):
            raise Failed(f"{model.source}: what was made of it cannot be kept: {words}")
        return made


@dataclass(frozen=True, kw_only=True)
class Directory:
    """What is cheap to read of a model's directory: never its weights."""

    path: Path
    files: tuple[File, ...]  # without hashes
    texts: Mapping[str, bytes]  # configuration
    raw: Mapping[str, bytes]  # each weights file's header

    @classmethod
    def read(cls, path: Path) -> Directory:
        """Raises Failed, CheckpointError, OSError."""
        if not path.is_dir():
            raise Failed(
                f"`{path}` is not on this machine, and what it holds is not in the lock; "
                "put its `config.json` and safetensors files at the same path here once, "
                "or declare a `repo` and a `revision`"
            )
        found = {one.name: one.stat() for one in sorted(path.iterdir()) if one.is_file()}
        wanted, configuration, weights = _checked(
            str(path),
            tuple(
                File(path=name, size=it.st_size, mtime_ns=it.st_mtime_ns)
                for name, it in found.items()
            ),
        )
        texts = {file.path: (path / file.path).read_bytes() for file in configuration}
        _configured(str(path), texts)
        raw = {file.path: _raw_header(path / file.path) for file in weights}
        return cls(path=path, files=wanted, texts=texts, raw=raw)

    @property
    def content(self) -> str:
        """A digest of names, sizes, configuration and headers: what a trace is made of."""
        digest = hashlib.sha256()
        for file in self.files:
            read = self.texts.get(file.path) or self.raw.get(file.path) or b""
            digest.update(json.dumps([file.path, file.size, len(read)]).encode() + read)
        return digest.hexdigest()

    def headers(self) -> dict[str, dict[str, Any]]:
        """The checked headers. Raises CheckpointError."""
        size = {file.path: file.size for file in self.files}
        return {
            name: checkpoint.read_header(raw, file=name, size=size[name])
            for name, raw in self.raw.items()
        }


def summary(
    texts: Mapping[str, bytes], headers: Mapping[str, Mapping[str, Any]], *, published: bool = True
) -> Checkpoint:
    """The checkpoint's headers in one line."""
    counted: Counter[str] = Counter()
    for header in headers.values():
        for tensor in header.values():
            start, end = tensor["data_offsets"]
            counted[tensor["dtype"]] += end - start
    config = json.loads(texts["config.json"])
    return Checkpoint(
        tensors=sum(map(len, headers.values())),
        bytes_by_dtype=dict(sorted(counted.items())),
        quantization=config.get("quantization") or config.get("quantization_config"),
        published=published,
    )


def _checked(
    where: str, files: tuple[File, ...]
) -> tuple[tuple[File, ...], list[File], list[File]]:
    """The files wanted, those to be read, and those of weights. Raises Failed."""
    wanted = tuple(
        sorted(
            (
                f
                for f in files
                if any(fnmatch.fnmatchcase(f.path, p) for p in WANTED)
                # `*` is a `/` too when mlx-lm downloads; it loads what is at the top only.
                and not ("/" in f.path and f.path.endswith(".safetensors"))
            ),
            key=lambda file: file.path,
        )
    )
    weights = [f for f in wanted if f.path.endswith(".safetensors")]
    if not weights:
        others = sorted({Path(f.path).suffix for f in files} & {".gguf", ".bin", ".pt", ".npz"})
        found = f"; it has `{'`, `'.join(others)}`, which MLX's server does not load" * bool(others)
        raise Failed(f"{where}: no `model*.safetensors`{found}; take an MLX or safetensors version")
    if not any(f.path == "config.json" for f in wanted):
        raise Failed(f"{where}: no `config.json`")
    return wanted, [f for f in wanted if f.path in CONFIGURATION], weights


def _configured(where: str, texts: Mapping[str, bytes]) -> None:
    try:
        config = json.loads(texts["config.json"])
    except (ValueError, RecursionError):  # a ValueError also of an integer of 5000 digits
        raise Failed(f"{where}: `config.json` is not JSON") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise Failed(f"{where}: `config.json` has no `model_type`")


def _raw_header(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        return file.read(checkpoint.header_length(file.read(8), file=path.name, size=size))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
