"""One tiny model for all, and one instance for the tests that leave it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from lab import Host, Lab
from tests.guard.clients import openai_client
from tests.guard.instance import Instance
from tests.guard.models import make_tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Instance]:
    """Shared by a module's tests; whoever breaks it fails them all."""
    with Instance(tmp_path_factory.mktemp("instance"), tiny) as started:
        yield started


@pytest.fixture(scope="session")
def serving(lab: Lab, converged: list[Path]) -> Iterator[Host]:
    """A lab host that serves the lab's real model; every test leaves it serving."""
    host = lab.boot("guarded", layers=converged)
    yield host
    host.destroy()


@pytest.fixture
def client(instance: Instance) -> Iterator[openai.OpenAI]:
    """OpenAI's own, of the module's own instance."""
    with openai_client(instance) as made:
        yield made
