"""A rank group over two real hosts: lost processes and a lost network, and both come back."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from lab import Host, Lab
from tests.guard.models import make_tiny_llama

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
ASK = """
import http.client, json, socket, sys
class Api(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect("/run/mlx-hosts/pair.0.0/api.sock")
api = Api("guard")
api.request("POST", "/v1/completions", json.dumps(
    {"model": "pair", "prompt": "hello", "max_tokens": 8, "temperature": 0}))
print(api.getresponse().read().decode())
"""


class Pair:
    """Rank 0 on one host, rank 1 on the other, each in its unit."""

    def __init__(self, hosts: tuple[Host, Host], model: Path) -> None:
        self.hosts = hosts
        addresses = [host.address for host in hosts]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(model, "pair")
        template = Template((ROOT / "templates/mlx-group.conf.j2").read_text())
        dropin = template.render(fabric_addresses=addresses)
        for rank, host in enumerate(hosts):
            (Path(host.root) / "opt/pair.tar").write_bytes(packed.getvalue())
            told = host.root_run(
                "cat /etc/mlx-hosts/instances/*.json; systemctl stop 'mlx-model@*'"
            )
            config: dict[str, Any] = json.JSONDecoder().raw_decode(told.stdout)[0]
            name = f"pair.0.{rank}"
            config |= {
                "instance": name, "slug": "pair", "served_name": "pair", "model": "/opt/pair",
                "context_tokens": 512, "socket": f"/run/mlx-hosts/{name}/api.sock",
                "run_dir": f"/run/mlx-hosts/{name}", "cache_dir": f"/var/cache/mlx-hosts/{name}",
                "planned_bytes": None, "memory_limit_bytes": None, "cache_limit_bytes": None,
                "hang_floor_s": 20, "start_timeout_s": 120,
                "group": {
                    "rank": rank, "backend": "ring", "meeting": f"{addresses[0]}:7700",
                    "ranks": [f"{address}:7701" for address in addresses],
                },
            }  # fmt: skip
            unit = f"mlx-model@{name}.service"
            host.root_run(
                f"tar -xf /opt/pair.tar -C /opt; mkdir -p /etc/systemd/system/{unit}.d;"
                f"cat > /etc/systemd/system/{unit}.d/group.conf",
                input=dropin,
            )
            host.root_run(f"cat > /etc/mlx-hosts/instances/{name}.json", input=json.dumps(config))
            host.root_run("systemctl daemon-reload")

    def unit(self, rank: int) -> str:
        return f"mlx-model@pair.0.{rank}.service"

    def start(self, rank: int) -> None:
        self.hosts[rank].root_run(f"systemctl start --no-block {self.unit(rank)}")

    def state(self, rank: int) -> dict[str, Any]:
        told = (
            self.hosts[rank]
            .root_run(f"cat /run/mlx-hosts/pair.0.{rank}/state.json", check=False)
            .stdout
        )
        return dict(json.loads(told)) if told.strip() else {}

    def engines(self) -> list[Any]:
        return [self.state(rank).get("engine_pid") for rank in (0, 1)]

    def ready(self) -> bool:
        return all(self.state(rank).get("state") == "ready" for rank in (0, 1))

    def until_new(self, before: list[Any], within_s: float = 200) -> float:
        """Until both engines are others than before, and the group answers."""
        began = time.monotonic()
        while set(before) & set(self.engines()) or not self.ready():
            assert time.monotonic() - began < within_s, [self.state(0), self.state(1)]
            time.sleep(0.3)
        assert "choices" in self.ask()
        return time.monotonic() - began

    def ask(self) -> dict[str, Any]:
        told = self.hosts[0].root_run("python3 -", input=ASK, timeout_s=90).stdout
        return dict(json.loads(told))


@pytest.fixture(scope="module")
def pair(
    lab: Lab, converged: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    hosts = (lab.boot("rank-zero", layers=converged), lab.boot("rank-one", layers=converged))
    made = Pair(hosts, make_tiny_llama(tmp_path_factory.mktemp("pair") / "model"))
    made.start(1)
    time.sleep(2)
    assert made.state(1)["state"] == "starting", "alone it waits"
    made.start(0)
    made.until_new([])
    yield made
    for host in hosts:
        host.destroy()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", ["KILL", "STOP"])
def test_a_lost_engine_brings_both_back(pair: Pair, rank: int, number: str) -> None:
    """On either host, killed or stopped: both ranks have new engines, the same answer comes."""
    answer = pair.ask()["choices"]
    for each in (0, 1):
        pair.hosts[each].root_run(f"systemctl reset-failed {pair.unit(each)}")
    before = pair.engines()
    pair.hosts[rank].root_run(f"kill -{number} {before[rank]}")
    print(f"| engine of rank {rank}, SIG{number} | {pair.until_new(before):.1f} s |")
    assert pair.ask()["choices"] == answer


def test_a_host_cut_off_and_back_is_of_the_group_again(pair: Pair) -> None:
    """Both sides notice without a word from each other, and meet again when the network is back."""
    for each in (0, 1):
        pair.hosts[each].root_run(f"systemctl reset-failed {pair.unit(each)}")
    before = pair.engines()
    began = time.monotonic()
    pair.hosts[1].cut_network()
    while any(pair.state(rank).get("state") == "ready" for rank in (0, 1)):
        assert time.monotonic() - began < 60
        time.sleep(0.3)
    noticed = time.monotonic() - began
    pair.hosts[1].restore_network()
    print(f"| host cut off | noticed after {noticed:.1f} s, back {pair.until_new(before):.1f} s |")


def test_only_declared_peers_are_let_in(pair: Pair) -> None:
    """The unit's own firewall: an address that is not declared cannot be reached from it."""
    pid = pair.state(0)["pid"]
    told = pair.hosts[0].root_run(f"systemctl show -P IPAddressDeny {pair.unit(0)}").stdout
    assert "0.0.0.0/0" in told
    assert pid
