"""The unit on a real host under systemd, hurt in every way known: it comes back from each."""

from __future__ import annotations

import json
import random
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from lab import Host
from lab.driver import ACTIVATE, DEACTIVATE, install, remove
from lab.machine import LabError
from tests.guard import fault_table, hurt

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
READY_UNIT = "/etc/systemd/system/mlx-gpu-ready.service"
SHOWN = "/etc/simulated-nvidia"
HIDDEN = "/etc/simulated-nvidia.late"
CLIENT_CAN_READ = '"error": {"message": '
MUTE = {"guard killed", "guard stopped"}  # nobody is left to say last words
REBOOTED = "reboot in mid-load"
LATE = "device node late"
TABLE = fault_table.Table(
    "guard-faults.md",
    (*hurt.FAULTS, REBOOTED, LATE),
    """\
# What each fault costs

Written by `pytest --soak tests/guard/test_faults.py`, which hurts one instance (the guard, the real
engine, SmolLM2-135M in float32: 538 MB) on a lab host that many times, and fails where a unit is
lost, says `active` and cannot generate, or tells a client what it cannot read. Seconds, median /
worst: until the client in flight knew, and until a new request got its first token. All on a CPU;
driver and device nodes are simulated.
""",
)


@pytest.fixture
def times(pytestconfig: pytest.Config) -> int:
    """How often each fault is tried."""
    return 10 if pytestconfig.getoption("--soak") else 1


def recorded(fault: str, runs: list[dict[str, Any]]) -> None:
    """Every unit is there again; in the long form the table gets its row."""
    print(fault_table.row(fault, runs))
    assert all(run["unit"] == "active" for run in runs)
    if len(runs) > 1:
        TABLE.write(fault, runs)


def hurting(host: Host, *fault: str) -> dict[str, Any]:
    host.root_run("cat > /opt/hurt.py", input=(HERE / "hurt.py").read_text())
    command = shlex.join(["python3", "/opt/hurt.py", *fault])
    told: dict[str, Any] = json.loads(host.root_run(command, timeout_s=500).stdout)
    return told


def test_it_comes_back_from_some(serving: Host, seed: int) -> None:
    """Another two of the catalogue each time, by the printed seed."""
    for fault in random.Random(seed).sample(sorted(hurt.FAULTS), 2):
        comes_back(serving, fault, 1)


@pytest.mark.soak
@pytest.mark.parametrize("fault", hurt.FAULTS)
def test_it_comes_back_from_each(serving: Host, fault: str, times: int) -> None:
    """Ten times, and the table has the figures."""
    comes_back(serving, fault, times)


def comes_back(host: Host, fault: str, times: int) -> None:
    """The client in flight is told, the unit restarts, a new request gets a token."""
    runs = [hurting(host, fault) for _ in range(times)]
    recorded(fault, runs)
    if fault not in MUTE:
        assert all(CLIENT_CAN_READ in run["client"] for run in runs), runs
    assert not any("[DONE]" in run["client"] for run in runs), runs


def test_it_comes_back_from_a_reboot_in_mid_load(serving: Host, times: int) -> None:
    """In good order and by a power cut in turn, while the engine reads its weights."""
    runs = []
    for number in range(times):
        serving.root_run(f"systemctl restart --no-block {unit(serving)}")
        until(lambda: state(serving).get("state") == "loading")
        began = time.monotonic()
        if number % 2:
            serving.power_cut()
        else:
            serving.reboot()
        runs.append(hurting(serving) | {"token_s": time.monotonic() - began})
    recorded(REBOOTED, runs)


@pytest.fixture
def with_a_gpu(serving: Host) -> Iterator[Host]:
    """The instance is declared to have a GPU, of a simulated driver; the engine stays on the CPU.

    At the end the host is as it was.
    """
    name = unit(serving)
    slug = name.removeprefix("mlx-model@").removesuffix(".service")
    config = f"/etc/mlx-hosts/instances/{slug}.json"
    profile = install(serving.root, "two_rtx_pro_6000")
    settings = json.loads(serving.root_run(f"cp {config} /opt/config.json; cat {config}").stdout)
    settings["gpu_uuids"] = [profile.gpus[0]["uuid"]]
    serving.root_run(f"cat > {config}", input=json.dumps(settings))
    python = serving.root_run(f"systemctl show -P ExecStart {name}").stdout.split("path=")[1]
    ready = Template((ROOT / "templates/mlx-gpu-ready.service.j2").read_text()).render(
        guard_python=python.split()[0], gpu_uuids=settings["gpu_uuids"]
    )
    serving.root_run(f"cat > {READY_UNIT}", input=ready)
    drop_in = (ROOT / "templates/mlx-model-gpu.conf.j2").read_text()
    serving.root_run(f"cat > /etc/systemd/system/{name}.d/20-gpu.conf", input=drop_in)
    serving.root_run("systemctl daemon-reload; systemctl enable mlx-gpu-ready")
    yield serving
    serving.root_run(
        f"systemctl disable --now mlx-gpu-ready; systemctl stop {name}; {DEACTIVATE};"
        f"rm {READY_UNIT} /etc/systemd/system/{name}.d/20-gpu.conf; cp /opt/config.json {config};"
        f"rm -rf {HIDDEN}"
    )
    remove(serving.root)
    serving.root_run(f"systemctl daemon-reload; systemctl start {name}", timeout_s=180)


def test_it_waits_for_a_device_that_comes_late(with_a_gpu: Host, times: int) -> None:
    """Missing at boot: the unit is not active, and says why; the device comes, and it serves.

    Driver and nodes are simulated.  Once in the long form they come after mlx-gpu-ready has given
    up for the first time, so that the guard itself waits.
    """
    host, runs = with_a_gpu, []
    for number in range(times):
        beyond = times > 1 and number == 0
        host.root_run(f"{DEACTIVATE}; mv {SHOWN} {HIDDEN}")
        host.reboot(until_up=False)
        if beyond:
            until(lambda: "does not answer" in status(host), within_s=120)
            journal = host.root_run("journalctl -b -u mlx-gpu-ready -o cat").stdout
            assert "not ready after 75 s: the driver does not answer" in journal
        else:
            until(lambda: show(host, "mlx-gpu-ready", "ActiveState") == "activating")
            time.sleep(3)
        assert show(host, unit(host), "ActiveState") in {"inactive", "activating"}
        host.root_run(f"mv {HIDDEN} {SHOWN}; {ACTIVATE}")
        began = time.monotonic()
        host.wait_until_up()
        runs.append(hurting(host) | {"token_s": time.monotonic() - began})
    recorded(LATE, runs)


def unit(host: Host) -> str:
    told = host.root_run("systemctl list-units --all --plain --no-legend 'mlx-model@*'").stdout
    return told.split()[0]


def show(host: Host, name: str, field: str) -> str:
    return host.root_run(f"systemctl show -P {field} {name}").stdout.strip()


def status(host: Host) -> str:
    """What ``systemctl status`` says in the guard's own words."""
    return show(host, unit(host), "StatusText")


def state(host: Host) -> dict[str, Any]:
    told = host.root_run("cat /run/mlx-hosts/*/state.json", check=False).stdout
    return dict(json.loads(told)) if told.strip() else {}


def until(holds: Callable[[], bool], *, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            if holds():
                return
        except LabError:
            pass  # it is rebooting
        assert time.monotonic() < deadline
        time.sleep(0.1)
