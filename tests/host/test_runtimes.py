"""The environments in use: what their locks say is in them, every file as its package made it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from testinfra.host import Host

from tests.host.declared import ROOT, Declared
from tests.host.environments import SHELVES, Environment, in_use, locked, text_of

# What stands in an environment besides its packages: links to its interpreter, its settings, the
# lock it was made from, and what activates it in a shell.
BARE = re.compile(
    r"bin/(python[\d.]*|[Aa]ctivate.*|deactivate\.bat|pydoc\.bat)|pyvenv\.cfg|requirements\.txt|lib64"
    r"|\.gitignore|\.lock|CACHEDIR\.TAG|lib/python[\d.]+/site-packages/_virtualenv\.(py|pth)"
)
SOURCES = "lib/python[0-9.]*/site-packages/"


@pytest.fixture(params=SHELVES)
def environment(host: Host, declared: Declared, request: pytest.FixtureRequest) -> Environment:
    """Each environment in use: uv's, the guard's, the engine's."""
    return in_use(host, request.param, declared.data.get("flavour"))


@pytest.fixture(scope="session")
def seen() -> dict[str, Any]:
    """What was seen of an environment, by host and path: reading it all takes a second or more."""
    return {}


@pytest.fixture
def inspected(
    host: Host,
    declared: Declared,
    environment: Environment,
    seen: dict[str, Any],
    request: pytest.FixtureRequest,
) -> dict[str, Any]:
    """What is in the environment, looked at on the host, once for all tests."""
    where = f"{declared.name}:{environment.path}"
    if where not in seen:
        seen[where] = environment.inspect(host, deep=not request.config.getoption("--shallow"))
    return seen[where]


def test_it_holds_what_its_lock_says(
    host: Host, environment: Environment, inspected: dict[str, Any]
) -> None:
    """Packages and versions are those of the checkout's lock: none missing, none besides."""
    python = host.check_output(
        "%s -I -c 'import platform; print(platform.python_version())'",
        f"{environment.path}/bin/python",
    )
    architecture = host.check_output("uname -m")
    expected = locked(environment.lock, python=python, architecture=architecture)
    found = {canonicalize_name(name): one for name, one in inspected["packages"].items()}
    assert found == expected


def test_every_file_is_as_its_package_made_it(inspected: dict[str, Any]) -> None:
    """Sizes and hashes are those of the packages' records; bytecode is made of its source."""
    assert inspected["wrong"] == []


def test_nothing_is_in_it_besides(environment: Environment, inspected: dict[str, Any]) -> None:
    """There is no file of no package but what makes up an environment, and our own guard."""
    strangers = [
        name
        for name in inspected["others"]
        if not BARE.fullmatch(name)
        and not (environment.lock == "guard" and re.match(f"{SOURCES}guard/", name))
    ]
    assert strangers == []


def test_it_is_roots_and_nobody_elses_to_write(host: Host, environment: Environment) -> None:
    """No file in it, nor the record of its files, can be changed by anybody but root."""
    loose = "find %s %s ! -type l '(' ! -user root -o ! -group root -o -perm /022 ')'"
    assert host.check_output(loose, environment.path, environment.record) == ""
    kind = "stat -c '%%F' %s"
    assert host.check_output(kind, environment.path) == "directory"
    assert json.loads(host.check_output("cat %s", environment.record))["tree"]


def test_it_runs_the_hosts_python(host: Host, declared: Declared, environment: Environment) -> None:
    """Its interpreter is the declared one (the host's own where none is), and sees nothing else."""
    given = declared.data.get("site", {}).get("python")
    python = given or host.check_output("command -v python3")
    config = host.check_output("cat %s", f"{environment.path}/pyvenv.cfg")
    words = {
        key.strip(): value.strip()
        for key, _, value in (line.partition("=") for line in config.splitlines())
    }
    assert words["home"] == str(Path(python).parent)
    assert words["include-system-site-packages"] == "false"
    links = [f"{environment.path}/bin/python", python]
    assert len({host.check_output("readlink -f %s", link) for link in links}) == 1


def test_activation_is_as_uv_writes_it(
    host: Host, environment: Environment, tmp_path: Path
) -> None:
    """What the locked uv puts into an environment to activate it is there, to the byte."""
    if environment.lock == "uv":
        pytest.skip("uv's own environment is made without uv")
    uv = Path(sys.executable).with_name("uv")
    made = [uv, "venv", "-q", "--no-project", "--python", sys.executable, tmp_path / "made"]
    subprocess.run(made, check=True, timeout=60)
    for ours in sorted((tmp_path / "made/bin").glob("*activate*")):
        text = ours.read_bytes().decode().replace(str(tmp_path / "made"), environment.path)
        found = host.run("cat %s", f"{environment.path}/bin/{ours.name}").stdout_bytes.decode()
        version = r"python3\.\d+"
        assert re.sub(version, "python3", found) == re.sub(version, "python3", text), ours.name


def test_the_guard_is_the_checkouts(host: Host, declared: Declared) -> None:
    """The guard's sources on the host are those of the checkout: none missing, none besides."""
    guard = in_use(host, "guards", declared.data.get("flavour"))
    find = "cd %s/lib/python3*/site-packages && find guard -name '*.py' -exec sha256sum {} +"
    found = dict(
        reversed(line.split()) for line in host.check_output(find, guard.path).splitlines()
    )
    sources = (ROOT / "guard").rglob("*.py")
    assert found == {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sources
    }


def test_one_backend_is_in_the_engines_runtime(host: Host, declared: Declared) -> None:
    """Exactly one of MLX's back ends is installed: they share a file, and the last one wins."""
    engine = in_use(host, "runtimes", declared.data.get("flavour"))
    find = "ls -d %s/lib/python3*/site-packages/mlx_c*.dist-info"
    found = [path.rpartition("/")[2] for path in host.check_output(find, engine.path).split()]
    backend = {"cpu": "mlx_cpu", "cuda12": "mlx_cuda_12", "cuda13": "mlx_cuda_13"}[engine.lock]
    assert [name.partition("-")[0] for name in found] == [backend]


def test_instances_run_from_them(host: Host, declared: Declared, settings: dict[str, Any]) -> None:
    """Guard and engine of an instance are started from the environments of this checkout."""
    flavour = declared.data.get("flavour")
    assert settings["runtime"] == in_use(host, "runtimes", flavour).path
    unit = host.check_output("cat /etc/systemd/system/mlx-model@.service")
    assert f"\nExecStart={in_use(host, 'guards', flavour).path}/bin/python " in unit


def test_old_environments_are_cleared_away(host: Host) -> None:
    """Beside the one in use there is at most the one before it, whole: the way back."""
    for shelf in SHELVES:
        listed = host.check_output("ls -A %s", f"/opt/mlx-hosts/{shelf}").split()
        assert 1 <= len(listed) <= 2, (shelf, listed)
        for name in listed:
            assert host.file(f"/opt/mlx-hosts/records/{shelf}-{name}.json").is_file


def test_locks_have_hashes() -> None:
    """The locks that hosts are judged by pin every file of every package by its hash."""
    for lock in ("uv", "guard", "cpu", "cuda12", "cuda13"):
        text = text_of(lock)
        pins = re.findall(r"^[a-zA-Z0-9][^\n]*", text, flags=re.MULTILINE)
        assert all(pin.endswith("\\") for pin in pins)
        assert len(re.findall(r"--hash=sha256:", text)) >= len(pins)
