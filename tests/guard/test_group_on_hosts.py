"""A rank group over two real hosts: lost processes and a lost network, and both come back."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from lab import Host, Lab
from lab.commands import Done
from tests.asking import say
from tests.guard import fault_table, hurt, sandbox
from tests.guard.models import make_tiny_llama
from tests.ranks import Ranks

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
LOST, CUT = "{whom} of rank {rank}, SIG{number}", "host of rank {rank} cut off, and back"
FIRST = "rank {rank} started 8 s before the other"
TABLE = fault_table.Table(
    "guard-group-faults.md",
    (
        *(
            LOST.format(whom=whom, number=number, rank=rank)
            for whom, number, rank in product(("engine", "guard"), ("KILL", "STOP"), (0, 1))
        ),
        *(CUT.format(rank=rank) for rank in (0, 1)),
        *(FIRST.format(rank=rank) for rank in (0, 1)),
    ),
    """\
# What each fault costs a rank group

Written by `pytest --soak tests/guard/test_group_on_hosts.py`: two ranks on two lab hosts over MLX's
ring, a tiny random model, each rank a unit behind its guard. Seconds, median / worst: until neither
rank says that it is ready, and until both have new engines and the group answers as before. A
client of rank 0 reads a stream meanwhile. On a CPU; NCCL was not run.
""",
)


class Pair(Ranks):
    """Rank 0 on one host, rank 1 on the other, each in its unit."""

    def __init__(self, hosts: tuple[Host, Host], model: Path) -> None:
        super().__init__(hosts, ("pair.0.0", "pair.0.1"))
        addresses = [host.address for host in hosts]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(model, "pair")
        template = Template((ROOT / "templates/mlx-group.conf.j2").read_text())
        dropin = template.render(fabric_addresses=addresses)
        for rank, (host, name) in enumerate(zip(hosts, self.instances, strict=True)):
            (Path(host.root) / "opt/pair.tar").write_bytes(packed.getvalue())
            told = host.root_run(
                "cat /etc/mlx-hosts/instances/*.json; systemctl stop 'mlx-model@*'"
            )
            config: dict[str, Any] = json.JSONDecoder().raw_decode(told.stdout)[0]
            config |= {
                "instance": name, "slug": "pair", "served_name": "pair", "model": "/opt/pair",
                "context_tokens": 8192, "socket": f"/run/mlx-hosts/{name}/api.sock",
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
        return f"mlx-model@{self.instances[rank]}.service"

    def start(self, rank: int) -> None:
        # By hand, too, systemd starts a unit five times in ten minutes and no more.
        unit = self.unit(rank)
        self.hosts[rank].root_run(
            f"systemctl reset-failed {unit}; systemctl start --no-block {unit}"
        )

    def until_new(self, before: list[Any], within_s: float = 200) -> None:
        """Until both engines are others than before, and the group answers."""
        super().until_new(before, within_s)
        assert "choices" in self.ask()

    @contextmanager
    def client_in_flight(self) -> Iterator[Future[Done]]:
        """A stream from rank 0, of which tokens have come; in the end, what it was told."""
        host = self.hosts[0]
        began = hurt.BEGAN
        host.root_run(f"rm -f {began}; cat > /opt/hurt.py", input=Path(hurt.__file__).read_text())
        with ThreadPoolExecutor(1) as pool:
            stream = "python3 /opt/hurt.py --stream"
            told = pool.submit(host.root_run, stream, timeout_s=300)
            while host.root_run(f"test -e {began}", check=False).returncode:
                assert not told.done(), told.result()
                time.sleep(0.05)
            yield told

    def ask(self) -> dict[str, Any]:
        return say(self.hosts[0], self.instances[0], "pair")


@pytest.fixture(scope="module")
def pair(
    lab: Lab, converged: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    hosts = (lab.boot("rank-zero", layers=converged), lab.boot("rank-one", layers=converged))
    made = Pair(hosts, make_tiny_llama(tmp_path_factory.mktemp("pair") / "model"))
    made.start(1)
    while not made.state(1):
        time.sleep(0.3)
    time.sleep(2)
    assert made.state(1)["state"] == "starting", "alone it waits"
    made.start(0)
    made.until_new([])
    yield made
    for host in hosts:
        host.destroy()


@pytest.fixture
def times(pytestconfig: pytest.Config) -> int:
    """How often each fault is tried."""
    return 10 if pytestconfig.getoption("--soak") else 1


def hurting(pair: Pair, harm: Callable[[], object], undo: Callable[[], object]) -> dict[str, Any]:
    """Seconds until neither rank says it is ready, and until both have new engines and answer.

    The same answer as before, after ``undo``, which is done once both have noticed.
    """
    answer = pair.ask()["choices"]
    for rank in (0, 1):
        pair.hosts[rank].root_run(f"systemctl reset-failed {pair.unit(rank)}")
    before = pair.engines()
    with pair.client_in_flight() as client:
        began, harmed = time.monotonic(), time.time()
        harm()
        while any(pair.state(rank).get("engine_pid") == before[rank] and
                  pair.state(rank).get("state") == "ready" for rank in (0, 1)):  # fmt: skip
            assert time.monotonic() - began < 60, [pair.state(0), pair.state(1)]
            time.sleep(0.1)
        noticed = time.monotonic() - began
        undo()
        pair.until_new(before)
        back = time.monotonic() - began
        told = json.loads(client.result().stdout)
    assert told["told_at"] > harmed, "it was in flight"
    assert pair.ask()["choices"] == answer
    return {"detected_s": noticed, "token_s": back, "client": told["client"]}


def recorded(fault: str, runs: list[dict[str, Any]]) -> None:
    print(fault_table.row(fault, runs))
    if len(runs) > 1:
        TABLE.write(fault, runs)


def readable(told: str) -> bool:
    """Whether a client got an error in OpenAI's format."""
    return '"error": {"message": ' in told


SHORT = {("engine", "KILL", 1), ("engine", "STOP", 0)}
"""What the short form tries; test_group.py tries them all on one host."""


@pytest.mark.parametrize(
    ("whom", "number", "rank"),
    [
        pytest.param(*each, marks=() if each in SHORT else pytest.mark.soak)
        for each in product(("engine", "guard"), ("KILL", "STOP"), (0, 1))
    ],
)
def test_a_lost_rank_brings_both_back(
    pair: Pair, whom: str, number: str, rank: int, times: int
) -> None:
    """On either host, killed or stopped: both ranks have new engines, the same answer comes."""

    def harm() -> None:
        pid = pair.state(rank)["engine_pid" if whom == "engine" else "pid"]
        pair.hosts[rank].root_run(f"kill -{number} {pid}")

    runs = [hurting(pair, harm, lambda: None) for _ in range(times)]
    if (whom, rank) != ("guard", 0):  # then there is nobody left to say a word
        assert all(readable(run["client"]) for run in runs), runs
    recorded(LOST.format(whom=whom, rank=rank, number=number), runs)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_a_host_cut_off_and_back_is_of_the_group_again(pair: Pair, rank: int, times: int) -> None:
    """Both sides notice without a word from each other, and meet again when the network is back."""
    host = pair.hosts[rank]
    runs = [hurting(pair, host.cut_network, host.restore_network) for _ in range(times)]
    assert all(readable(run["client"]) for run in runs), runs
    recorded(CUT.format(rank=rank), runs)


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_either_side_may_be_started_first(pair: Pair, first: int, times: int) -> None:
    """Alone it waits, and is not active; it says for whom, and is ready when the other comes."""
    runs = []
    for _ in range(times):
        for rank in (0, 1):
            pair.hosts[rank].root_run(f"systemctl stop --no-block {pair.unit(rank)}")
        for rank in (0, 1):
            pair.hosts[rank].root_run(f"systemctl stop {pair.unit(rank)}", timeout_s=90)
        before = pair.engines()
        pair.start(first)
        time.sleep(8)  # longer than the others' silence may last
        unit = pair.unit(first)
        told = pair.hosts[first].root_run(f"systemctl show {unit}").stdout
        assert "\nActiveState=activating\n" in told
        assert "\nStatusText=starting: waiting for the other ranks" in told
        began = time.monotonic()
        pair.start(1 - first)
        pair.until_new(before)
        runs.append({"token_s": time.monotonic() - began})
    recorded(FIRST.format(rank=first), runs)


def test_only_declared_peers_are_reached(pair: Pair, lab: Lab) -> None:
    """From inside the sandbox: the other rank is reached, somebody undeclared is not."""
    host, peer = pair.hosts
    sandbox.prepare(host)
    own = sandbox.settings(host, pair.unit(0))
    opened = {
        *("PrivateNetwork", "InaccessiblePaths: /dev/shm", "PrivateIPC"),
        "RestrictAddressFamilies: netlink",  # as getifaddrs() of NCCL's needs
    }
    told = sandbox.attempts(host, own, listener=f"{peer.address}:22")
    assert sandbox.through(told) == opened | {"IPAddressDeny"}, told
    with socket.create_server((lab.network.machine, 0)) as stranger:
        listener = f"{lab.network.machine}:{stranger.getsockname()[1]}"
        told = sandbox.attempts(host, own, listener=listener)
        assert sandbox.through(told) == opened, told


def test_only_declared_peers_are_let_in(pair: Pair) -> None:
    """The meeting and MLX's ring take packets of the other rank, and of nobody else."""
    address = pair.hosts[0].address
    reach = f"timeout 3 bash -c '</dev/tcp/{address}/7700'"
    assert pair.hosts[1].root_run(reach, check=False).returncode == 0
    with pytest.raises(TimeoutError):
        socket.create_connection((address, 7700), timeout=3)
