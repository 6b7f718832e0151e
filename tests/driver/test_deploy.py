"""How far a deploy goes on a host whose GPU is simulated, and what it says then."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Host, Lab
from lab.driver import ACTIVATE, Profile, install, install_packages
from tests.deploying import ROOT, pyinfra

pytestmark = [pytest.mark.lab, pytest.mark.soak]
INVENTORY = """\
import runpy
_hosts, _all = runpy.run_path("{lab}")["lab"]
lab = (
    [(name, {{**data, "flavour": None}}) for name, data in _hosts if name == "{host}"],
    {{key: value for key, value in _all.items() if key != "memory_bytes"}},
)
"""


def test_all_is_built_and_the_engine_finds_no_cuda(lab: Lab, tmp_path: Path):
    """The whole CUDA runtime is there, the GPUs are waited for; only a token cannot be had."""
    host: Host = lab.boot("simulated-gpu")
    profile = install(host.root, Profile.load("two_rtx_pro_6000"))
    host.root_run(ACTIVATE)
    install_packages(host, profile)
    inventory = tmp_path / "simulated.py"
    lab_inventory = ROOT / "inventories" / "lab.py"
    inventory.write_text(INVENTORY.format(lab=lab_inventory, host=host.name))
    run = pyinfra(lab, "-y", inventory=str(inventory), timeout=1200)
    assert run.returncode == 1
    said = run.stderr
    assert "ImportError: libcuda.so.1: cannot open shared object file" in said
    assert "guard: the engine exited with 1 while starting" in said
    wait = host.root_run("systemctl is-active mlx-gpu-ready.service").stdout
    assert wait == "active\n"
    assert host.root_run("ls -d /opt/mlx-hosts/runtimes/*/lib/python*/site-packages/nvidia").stdout
    assert set(host.root_run("apt-mark showhold").stdout.split()) == set(profile.packages)
    host.destroy()
