"""Fake hosts, and a hub on this machine's loopback for what is learnt of their models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hub import Hub
from lab.models import TINY, tiny_llama
from tests.fake.fakes import Fakes


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An inventory's data for a tiny model on a hub; what is learnt of it is learnt once."""
    place = tmp_path_factory.mktemp("hub")
    with Hub(place) as hub:
        revision = hub.add_repo(TINY, tiny_llama())
        model = {"repo": TINY, "revision": revision, "name": "tiny", "context": 256}
        yield {
            "models": [{**model, "concurrency": 2}],
            "hub": {"endpoint": hub.endpoint},
            "models_lock": str(place / "models.lock"),
        }


@pytest.fixture
def fakes(tmp_path: Path, served: dict[str, Any]) -> Fakes:
    """No hosts yet; each is to serve the tiny model on its CPU unless it says otherwise."""
    cpu = {"flavour": "cpu", "memory_bytes": 4 * 1024**3}
    return Fakes(tmp_path, {**cpu, **served})
