"""A host that was deployed to once, for drift to be found on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.drift.checking import deploy
from tests.drift.sealing import seal_anew


@pytest.fixture(scope="session")
def nonsense(lab: Lab, converged: list[Path]) -> list[Path]:
    """Layers of a host that serves the tiny model: whatever breaks it is repaired in seconds."""
    host = lab.boot("nonsense", layers=converged)
    deploy(lab, host.name)
    seal_anew(host)
    host.flush()
    layers = host.snapshot()
    host.destroy()
    return layers


@pytest.fixture(scope="module")
def kept(lab: Lab, nonsense: list[Path], request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host for all the tests of a module, each of which leaves it as declared."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    host = lab.boot(f"kept-{name}", layers=nonsense)
    yield host
    host.destroy()
