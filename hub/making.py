"""Make a lock entry: a model's files and headers from the hub or a directory, then its trace."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub import checkpoint, tracing
from hub.lock import Checkpoint, Entry, File
from planner.declared import Model
from planner.traced import Traced

# What mlx-lm downloads of a repository (mlx_lm/utils.py, DEFAULT_ALLOW_PATTERNS).
WANTED = (
    "*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "tiktoken.model",
    "*.txt", "*.jsonl", "*.jinja",
)  # fmt: skip
# What mlx-lm reads to build a model (mlx_lm/utils.py, load_model).
CONFIGURATION = ("config.json", "generation_config.json", "hf_quant_config.json")


class Failed(RuntimeError):  # noqa: N818 -- raised once for each model, collected by the caller
    """A model that could not be locked, in one sentence."""


def entry(
    model: Model,
    known: Entry | None,
    *,
    mlx_lm: str,
    endpoint: str | None = None,
    token: str | None = None,
) -> Entry:
    """What the lock keeps of ``model``. Raises Failed."""
    try:
        if model.path is not None:
            files, texts, headers = _from_directory(Path(model.path))
        else:
            files, texts, headers = _from_hub(model, endpoint, token)
        traced = tracing.trace(texts, headers)
    except (checkpoint.CheckpointError, tracing.TraceError) as error:
        raise Failed(f"{model.source}: {error}") from None
    if isinstance(traced, Traced) and traced.mlx_lm != mlx_lm:
        raise Failed(
            f"{model.source}: mlx-lm {traced.mlx_lm} is installed here, the hosts get {mlx_lm}; "
            "install the locked one"
        )
    traces = dict(known.traces) if known else {}
    traces[mlx_lm] = traced
    return Entry(
        source=model.source, files=files, checkpoint=summary(texts, headers), traces=traces
    )


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
            (f for f in files if any(fnmatch.fnmatchcase(f.path, p) for p in WANTED)),
            key=lambda file: file.path,
        )
    )
    weights = [f for f in wanted if fnmatch.fnmatchcase(f.path, "model*.safetensors")]
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
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise Failed(f"{where}: `config.json` is not JSON") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise Failed(f"{where}: `config.json` has no `model_type`")


def _from_hub(
    model: Model, endpoint: str | None, token: str | None
) -> tuple[tuple[File, ...], dict[str, bytes], dict[str, dict[str, Any]]]:
    from hub import client  # noqa: PLC0415 -- a directory needs no hub

    assert model.repo, "a model has a repository or a path"  # noqa: S101
    assert model.revision, "a repository has a revision"  # noqa: S101
    repository = client.Repository(
        repo=model.repo,
        revision=model.revision,
        endpoint=endpoint,
        token=token,
        deadline=client.within(),
    )
    try:
        wanted, configuration, weights = _checked(repository.where, repository.files())
        texts = {file.path: repository.text(file) for file in configuration}
        _configured(repository.where, texts)
        headers = {file.path: repository.header(file) for file in weights}
    except client.HubError as error:
        raise Failed(str(error)) from None
    return wanted, texts, headers


def _from_directory(
    directory: Path,
) -> tuple[tuple[File, ...], dict[str, bytes], dict[str, dict[str, Any]]]:
    if not directory.is_dir():
        raise Failed(
            f"`{directory}` is not on this machine, and what it holds is not in the lock; "
            "put its `config.json` and safetensors files at the same path here once, "
            "or declare a `repo` and a `revision`"
        )
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    files = tuple(File(path=path.name, size=path.stat().st_size) for path in paths)
    wanted, configuration, weights = _checked(str(directory), files)
    texts = {file.path: (directory / file.path).read_bytes() for file in configuration}
    _configured(str(directory), texts)
    headers = {file.path: _local_header(directory / file.path) for file in weights}
    hashed = tuple(replace(file, sha256=_sha256(directory / file.path)) for file in wanted)
    return hashed, texts, headers


def _local_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = checkpoint.header_length(file.read(8), file=path.name, size=size)
        return checkpoint.read_header(file.read(length), file=path.name, size=size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
