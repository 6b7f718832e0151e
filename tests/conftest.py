"""Labs for tests: skipped, with the reasons, where no host can be booted."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent import monkey

from lab import Host, Lab, missing
from lab.models import MODELS
from tests.deploying import deploy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the catalogues be gone through in full."""
    parser.addoption("--soak", action="store_true", help="run what is marked `soak` too")
    parser.addoption(
        "--seed", type=int, help="of the samples that are tried; else another each time"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed, for all that follows."""
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(10**6)


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to see the same samples again."""
    return f"samples: --seed {config.option.seed}"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """What the samples of this run are chosen by; printed in its header."""
    chosen: int = request.config.option.seed
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long forms, and what needs a lab where there can be none, saying why."""
    if not config.getoption("--soak"):
        soaking = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soaking)
    if shutil.which("gcc") is None:
        for item in items:
            if item.get_closest_marker("gcc"):
                item.add_marker(pytest.mark.skip(reason="no gcc to compile the simulated NVML"))
    items.sort(key=_cost)  # stable: from cheap to dear, and within a folder as written
    booting = [item for item in items if item.get_closest_marker("lab")]
    absent = missing() if booting else []
    if absent:
        for item in booting:
            item.add_marker(pytest.mark.skip(reason=f"no lab: {'; '.join(absent)}"))


def pytest_collection_finish() -> None:
    """Refuse to run patched: gevent closes files only when its loop runs, and waits in its own way.

    Loading pyinfra's command line patches the process. Removing a tree of 1,000 directories then
    leaves 2,000 files open, and a test that waits for a child may wait for ever.
    """
    if monkey.saved:
        pytest.exit("a test module has let gevent patch this process: see pytest_collection_finish")


def _cost(item: pytest.Item) -> tuple[bool, bool, bool]:
    """Put first what needs no host, then one, then whole deploys, then one broken many times."""
    booted = item.get_closest_marker("lab") is not None
    folder = item.path.parent.name
    return booted, folder == "deploys", item.path.stem == "test_final_state"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of this test process's own, removed at its end."""
    with Lab() as made:
        made.serve_models({name: make() for name, make in MODELS.items()})
        yield made


@pytest.fixture
def host(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A fresh Debian 12 host for one test."""
    booted = lab.boot(_host_name(request.node.name))
    yield booted
    lab.host(booted.name).destroy()  # a test may have given it another identity


@pytest.fixture(scope="session")
def converged(lab: Lab) -> list[Path]:
    """Layers of a host that was deployed to once; boot hosts from it: ``lab.boot(…, layers=)``."""
    host = lab.boot("converged")
    deploy(lab, host.name)
    host.flush()
    layers = host.snapshot()
    host.destroy()
    return layers


def _host_name(test: str) -> str:
    """Make a host name of a test's name: letters, digits and hyphens, 63 at most."""
    return "".join(c if c.isalnum() else "-" for c in test.removeprefix("test_"))[:40].strip("-")
