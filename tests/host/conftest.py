"""One connection to each host of the inventory that `--inventory` names, shared by all tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from tests.host.declared import Declared, Instance, read

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tell which hosts; see docs/host-tests.md."""
    group = parser.getgroup("mlx-hosts")
    group.addoption("--inventory", help="whose hosts to look at: an inventory's path")
    group.addoption("--only", action="append", default=[], help="a host's name; may be repeated")
    group.addoption(
        "--shallow", action="store_true", help="leave out what reads every byte of large files"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the inventory; ask for one, where these tests are asked for by name."""
    if config.getoption("--inventory", default=None):
        _hosts(config)
        return
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    ours = any(one == HERE or HERE in one.parents for one in asked)
    if ours:
        raise pytest.UsageError("tests/host: say whose hosts: --inventory inventories/gpu.py")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests out of a run of all tests, which names no inventory."""
    return None if config.getoption("--inventory", default=None) else True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test for every host, or for every instance of every host."""
    hosts = _hosts(metafunc.config)
    if "instance" in metafunc.fixturenames:
        instances = [one for host in hosts for one in host.instances]
        ids = [f"{one.host.name}-{one.name}" for one in instances]
        metafunc.parametrize("instance", instances, ids=ids, indirect=True, scope="session")
    elif "declared" in metafunc.fixturenames:
        ids = [host.name for host in hosts]
        metafunc.parametrize("declared", hosts, ids=ids, scope="session")


def _hosts(config: pytest.Config) -> list[Declared]:
    if not hasattr(config, "_mlx_hosts"):
        try:
            hosts = read(config.getoption("--inventory"))
        except RuntimeError as error:
            raise pytest.UsageError(str(error)) from None
        only = config.getoption("--only")
        chosen = [host for host in hosts if not only or host.name in only]
        if not chosen:
            raise pytest.UsageError(f"--only: no host of the inventory is named {only}")
        config._mlx_hosts = chosen  # noqa: SLF001 - read once for all tests of a run
    return config._mlx_hosts  # noqa: SLF001


@pytest.fixture(scope="session")
def ssh_config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give OpenSSH what the inventory tells pyinfra, and have it keep one connection a host."""
    folder = tmp_path_factory.mktemp("ssh")
    sections = [_section(host) for host in _hosts(request.config)]
    control = ["Host *", "  ControlMaster auto", f"  ControlPath {folder}/%C", "  BatchMode yes"]
    path = folder / "config"
    path.write_text("\n".join([*sections, *control, ""]))
    return path


def _section(host: Declared) -> str:
    words = {
        "HostName": host.data.get("ssh_hostname", host.name),
        "Port": host.data.get("ssh_port"),
        "User": host.data.get("ssh_user"),
        "IdentityFile": host.data.get("ssh_key"),
        "IdentitiesOnly": "yes" if host.data.get("ssh_key") else None,
        "UserKnownHostsFile": host.data.get("ssh_known_hosts_file"),
        "StrictHostKeyChecking": host.data.get("ssh_strict_host_key_checking"),
        "Include": host.data.get("ssh_config_file"),
    }
    given = [f"  {word} {value}" for word, value in words.items() if value is not None]
    return "\n".join([f"Host {host.name}", *given])


@pytest.fixture(scope="session")
def connected(ssh_config: Path) -> Iterator[Callable[[Declared], Host]]:
    """Connect to a host once, as the operator and through sudo, whoever asks."""
    open_: dict[str, Host] = {}

    def connect(declared: Declared) -> Host:
        if declared.name not in open_:
            url = f"ssh://{declared.name}?ssh_config={ssh_config}&controlpersist=60&sudo=True"
            open_[declared.name] = testinfra.get_host(url)
        return open_[declared.name]

    yield connect
    for name in open_:
        os.spawnlp(os.P_WAIT, "ssh", "ssh", "-qF", str(ssh_config), "-O", "exit", name)


@pytest.fixture(scope="session")
def instance(request: pytest.FixtureRequest, connected: Callable[[Declared], Host]) -> Instance:
    """Each instance in turn; of one that may span hosts, the rank that this host has."""
    one: Instance = request.param
    if one.spans:
        names = connected(one.host).check_output("ls -A /etc/mlx-hosts/instances").split()
        ranks = [name.split(".")[2] for name in names if name.startswith(f"{one.name}.")]
        if "json" not in ranks and ranks:
            return replace(one, rank=min(map(int, ranks)))
    return one


@pytest.fixture
def declared(request: pytest.FixtureRequest) -> Declared:
    """What the inventory says of the host; each host in turn, or the one of the instance."""
    instance: Instance = request.getfixturevalue("instance")
    return instance.host


@pytest.fixture
def host(connected: Callable[[Declared], Host], declared: Declared) -> Host:
    """The host that the test is about, seen by testinfra as root."""
    return connected(declared)


@pytest.fixture
def settings(host: Host, instance: Instance) -> dict[str, Any]:
    """What the instance's guard is told on the host."""
    answer: dict[str, Any] = json.loads(host.check_output("cat %s", instance.settings))
    return answer


@pytest.fixture
def fabric(settings: dict[str, Any]) -> list[str]:
    """The addresses of the instance's ranks, where it is on several hosts."""
    group = settings.get("group") or {"ranks": []}
    addresses = [one.rpartition(":")[0] for one in group["ranks"]]
    return [*dict.fromkeys(one for one in addresses if not one.startswith("127."))]
