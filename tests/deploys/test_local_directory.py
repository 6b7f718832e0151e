"""A model may be a directory that is on the host already."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.models import tiny_llama
from tests.deploying import pyinfra

pytestmark = pytest.mark.lab


@pytest.fixture
def here() -> Iterator[Path]:
    """A model's directory on the controller; below /srv, as on a host: units see no /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="mlx-hosts-test-", dir="/srv"))
    yield Path(shutil.copytree(tiny_llama(), folder / "tiny"))
    shutil.rmtree(folder)


def test_a_directory_is_served_and_one_that_differs_is_not(
    lab: Lab, converged: list[Path], here: Path
) -> None:
    """It is verified against what the controller knows of it, and nothing in it is changed."""
    host = lab.boot("local-directory", layers=converged)
    there = host.root / str(here).lstrip("/")
    shutil.copytree(here, there)
    host.root_run(f"chmod -R a+rX {here.parent}")
    model = {"path": str(here), "name": "tiny", "context": 128, "concurrency": 1}
    data = ("--data", f"models={json.dumps([model])}", "--limit", host.name, "-y", "--json")

    (there / "config.json").write_text("{}")
    refused = pyinfra(lab, *data)
    assert refused.returncode == 1
    assert f"{here}: not as models.lock says it is: config.json" in refused.stderr

    shutil.copy(here / "config.json", there / "config.json")
    run = pyinfra(lab, *data)
    assert run.returncode == 0, str(run)
    assert host.run("systemctl is-active mlx-model@tiny.0.service").stdout.strip() == "active"
    assert pyinfra(lab, *data).changed == {}
    host.destroy()
