"""The units as systemd sees them, against the inventory and the checkout's templates."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest
from testinfra.host import Host

from tests.host.declared import ROOT, Declared, Instance

# What keeps a served model in its place, in `systemctl show`'s words.
SANDBOX = {
    "User": "mlx",
    "Group": "mlx",
    "Type": "notify",
    "Restart": "always",
    "KillMode": "mixed",
    "WatchdogUSec": "20s",
    "UMask": "0027",
    "LimitCORE": "0",
    "PrivateNetwork": "yes",
    "PrivateUsers": "yes",
    "PrivateIPC": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "LockPersonality": "yes",
    "DevicePolicy": "closed",
    "Environment": "",
    "ExecStartPre": "",
    "ExecStartPost": "",
}


def show(host: Host, unit: str, *names: str) -> dict[str, str]:
    """Give properties of a unit in systemd's words; one that is not set is empty."""
    answer = host.check_output("systemctl show --property=%s -- %s", ",".join(names), unit)
    pairs = (line.partition("=") for line in answer.splitlines())
    return {**dict.fromkeys(names, ""), **{name: value for name, _, value in pairs}}


def rendered(name: str, **values: object) -> str:
    """Fill in one of the checkout's templates."""
    text = (ROOT / "templates" / f"{name}.j2").read_text(encoding="utf-8")
    template = jinja2.Template(
        text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return template.render(**values)


def owned_text(host: Host, path: str) -> str:
    """Read a file that must be root's own, and no link."""
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "regular file 644 root root"
    return host.run("cat %s", path).stdout


def test_the_unit_runs_and_will_again(host: Host, instance: Instance) -> None:
    """It is up, comes back at boot, and neither masked nor failed."""
    unit = host.service(instance.unit)
    assert unit.is_running
    assert unit.is_enabled
    assert not unit.is_masked
    states = show(host, instance.unit, "ActiveState", "SubState", "Result", "UnitFileState")
    assert states == {
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "UnitFileState": "enabled",
    }


def test_the_unit_is_ours_and_loaded_as_it_stands(
    host: Host, instance: Instance, settings: dict[str, Any]
) -> None:
    """It comes from our file and our drop-ins, no others, and nothing was edited since."""
    loaded = show(host, instance.unit, "FragmentPath", "DropInPaths", "NeedDaemonReload")
    folder = f"/etc/systemd/system/{instance.unit}.d"
    names = ["10-limits.conf", *(["20-gpu.conf"] if instance.host.gpu else [])]
    names += ["30-group.conf"] if "group" in settings else []
    template = instance.unit.replace(instance.name, "")
    assert loaded["FragmentPath"] == f"/etc/systemd/system/{template}"
    assert loaded["DropInPaths"].split() == [f"{folder}/{name}" for name in names]
    assert loaded["NeedDaemonReload"] == "no"
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", folder) == "directory 755 root root"
    assert host.check_output("ls -A %s", folder).split() == names


def test_systemd_finds_nothing_wrong_with_the_unit(host: Host, instance: Instance) -> None:
    """`systemd-analyze verify` is silent; it exits with 0 for a key that it does not know."""
    done = host.run("systemd-analyze verify %s", instance.unit)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "mlx" in line]
    assert (done.rc, ours) == (0, [])


@pytest.mark.parametrize("name", ["mlx-model@.service", "mlx-rank@.service"])
def test_the_unit_is_the_checkouts(host: Host, name: str) -> None:
    """The unit file is the template with a guard's Python filled in, to the byte."""
    text = owned_text(host, f"/etc/systemd/system/{name}")
    lines = text.splitlines()
    (start,) = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    python = start.split()[0]
    assert python.startswith("/opt/mlx-hosts/guards/")
    assert text == rendered("mlx-model@.service", guard_python=python)


def test_the_drop_ins_are_the_checkouts(
    host: Host, instance: Instance, settings: dict[str, Any], fabric: list[str]
) -> None:
    """Times, mounts and devices are the templates with this instance's figures filled in."""
    folder = f"/etc/systemd/system/{instance.unit}.d"
    limits = owned_text(host, f"{folder}/10-limits.conf")
    mounts = instance.host.data.get("mounts") or ()
    assert limits == rendered("mlx-model-limits.conf", served=settings, mounts=mounts)
    if instance.host.gpu:
        devices = owned_text(host, f"{folder}/20-gpu.conf")
        assert devices == rendered("mlx-model-gpu.conf")
    if "group" in settings:
        above = range(1, len(settings["group"]["ranks"]))
        others = [f"mlx-rank@{instance.name}.{rank}.service" for rank in above]
        group = owned_text(host, f"{folder}/30-group.conf")
        assert group == rendered("mlx-group.conf", others=others, fabric_addresses=fabric)


def test_the_sandbox_holds(host: Host, instance: Instance, fabric: list[str]) -> None:
    """systemd has what the unit says in force: user, network, privileges, paths, devices."""
    over_hosts = {"PrivateNetwork": "no", "PrivateIPC": "no"} if fabric else {}
    assert show(host, instance.unit, *SANDBOX) == {**SANDBOX, **over_hosts}


def test_packets_reach_the_ranks_alone(host: Host, instance: Instance, fabric: list[str]) -> None:
    """Where an instance has the host's network, it has of it what its group needs and no more."""
    told = show(host, instance.unit, "IPAddressDeny", "IPAddressAllow")
    allowed = {*told["IPAddressAllow"].split()} - {"127.0.0.0/8", "::1/128"}
    assert {*told["IPAddressDeny"].split()} == {"::/0", "0.0.0.0/0"}
    assert allowed == {f"{address}/32" for address in fabric}


def test_no_other_instance_is_there(host: Host, declared: Declared) -> None:
    """systemd knows of no instance that the inventory does not declare, not even a failed one."""
    listed = host.check_output("systemctl list-units --all --plain --no-legend %s", "mlx-model@*")
    units = sorted(line.split()[0] for line in listed.splitlines() if line.strip())
    settings = host.check_output("ls -A /etc/mlx-hosts/instances").split()
    # Rank 0 of one that spans hosts may be on another; what is here of it has tests of its own.
    here = [one for one in declared.instances if not one.spans or f"{one.name}.json" in settings]
    expected = sorted(one.unit for one in here)
    assert [unit for unit in units if unit in expected] == expected
    if not declared.open_ended:
        assert units == expected
        # Into how many ranks the plan splits a model, the inventory need not say.
        whole = [name for name in settings if name.count(".") == "SLUG.REPLICA.json".count(".")]
        assert whole == sorted(f"{one.name}.json" for one in here)


def test_the_ranks_are_there_and_no_other(host: Host) -> None:
    """An instance of several ranks, by its settings' group, has a unit for each that is here."""
    folder = "/etc/mlx-hosts/instances"
    expected = set()
    for name in host.check_output("ls -A %s", folder).split():
        told = json.loads(host.check_output("cat %s", f"{folder}/{name}"))
        if group := told.get("group"):
            whole = ".".join(told["instance"].split(".")[:2])
            hosts = [address.rpartition(":")[0] for address in group["ranks"]]
            here = hosts[group["rank"]]
            expected |= {f"{whole}.{n}" for n, host in enumerate(hosts) if n and host == here}
    units = [f"mlx-rank@{name}.service" for name in sorted(expected)]
    listed = host.check_output("systemctl list-units --all --plain --no-legend %s", "mlx-rank@*")
    assert sorted(line.split()[0] for line in listed.splitlines() if line.strip()) == units
    for unit in units:
        states = show(host, unit, "ActiveState", "SubState", "Result", "UnitFileState")
        assert list(states.values()) == ["active", "running", "success", "enabled"], unit


def test_nothing_of_ours_has_failed(host: Host) -> None:
    """No unit of ours is in the state `failed`."""
    assert host.check_output("systemctl list-units --failed --plain --no-legend 'mlx-*'") == ""


def test_models_wait_for_the_gpus(host: Host, declared: Declared) -> None:
    """The unit that makes NVIDIA's device nodes has done so, and will at the next boot."""
    if not declared.gpu:
        pytest.skip("a CPU host")
    unit = host.service("mlx-gpu-ready.service")
    assert unit.is_running
    assert unit.is_enabled
    assert host.file("/dev/nvidia-uvm").exists
