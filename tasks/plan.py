"""What goes where on the current host, and everything it is to have therefore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Lock as Mutex

from pyinfra import logger
from pyinfra.api.exceptions import DeployError

from hub.lock import Entry, Lock, LockError, ensure
from manifest import weights
from manifest.declaration import Declaration, Model, Sources, declare
from planner import Detected, Placement, Refusal, place
from planner import declared as inventory_data
from planner.bound import Bound
from tasks.declared import secret
from templates import render

ROOT = Path(__file__).parents[1]


def plan(declared: inventory_data.Host, bound: Bound) -> Declaration:
    """Place the host's models and declare all that they need.

    A model that does not fit is not downloaded and not served; the others are, and the run's exit
    status is 1.
    """
    lock = _locked(declared)
    found = Detected(
        gpus=tuple(
            inventory_data.Gpu(
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                compute_capability=gpu.compute_capability,
            )
            for gpu in bound.gpus
        ),
        memory_bytes=bound.memory_bytes,
    )
    planned = place([declared], lock, detected={declared.name: found})
    by_slug = {model.slug: model for model in declared.models}
    models = [
        _model(by_slug[one.model], one, lock.entry(by_slug[one.model]), bound)
        for one in planned.placements
    ]
    declaration = declare(declared, bound, models, sources())
    return replace(declaration, refusals=tuple(_told(one) for one in planned.refusals))


def _told(refusal: Refusal) -> str:
    return "\n    ".join([refusal.sentence, *refusal.ways_out])


def sources() -> Sources:
    """Read the texts that hosts are made from."""
    guard = ROOT / "guard"
    return Sources(
        locks={path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("locks/*.txt")},
        guard={
            str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
            for path in sorted(guard.rglob("*.py"))
        },
        render=render,
    )


_ONE_AT_A_TIME = Mutex()  # hosts are prepared side by side, and they share the file


def _locked(declared: inventory_data.Host) -> Lock:
    """Give what is known of the host's models; what is not yet is fetched from the hub."""
    with _ONE_AT_A_TIME:
        try:
            return ensure(
                declared.models,
                ROOT / declared.models_lock,
                endpoint=declared.hub.endpoint,
                token=secret(declared.hub.token) or None,
                progress=lambda source: logger.info("    Learning what %s takes", source),
            )
        except LockError as error:
            raise DeployError(f"models: nothing was touched: {error}") from None


def _model(
    model: inventory_data.Model, placed: Placement, entry: Entry | None, bound: Bound
) -> Model:
    blobs = tuple(
        weights.Blob(
            path=one.path,
            size=one.size,
            hash=f"sha256:{one.sha256}" if one.sha256 else f"git:{one.oid}",
        )
        for one in (entry.files if entry else ())
    )
    if model.repo is None:
        snapshot = weights.directory(str(model.path), blobs)
    else:
        snapshot = weights.snapshot(model.repo, str(model.revision), blobs)
    told = placed.settings
    return Model(
        instance=placed.instance,
        snapshot=snapshot,
        settings={
            "slug": model.slug,
            "served_name": model.name,
            "engine": placed.engine,
            "context_tokens": model.context,
            "concurrency": told.decode_concurrency,
            "prompt_concurrency": told.prompt_concurrency,
            "decode_concurrency": told.decode_concurrency,
            "prefill_step": told.prefill_step,
            "prompt_cache_entries": told.prompt_cache_entries,
            "memory_limit_bytes": told.memory_limit_bytes or None,
            "cache_limit_bytes": told.cache_limit_bytes or None,
            "planned_bytes": placed.need.mlx,
            "gpu_uuids": [bound.gpus[index].uuid for index in placed.gpus],
        },
    )
