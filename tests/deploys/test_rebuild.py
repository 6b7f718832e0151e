"""A host that is lost can be made again: the same, over its whole disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import Host, Lab
from lab.tree import differences
from tests.deploying import ROOT, pyinfra
from tests.deploys.looking import serves, stamp
from tests.deploys.states import serving_tiny

DOCS = ROOT / "docs/rebuild.md"
RECORDS = "opt/mlx-hosts/records"

EXCLUSIONS = {
    "/etc/machine-id": "who the host is: systemd's id of the installation",
    "/etc/hosts": "its address",
    "/etc/systemd/network/10-lab.network": "its address",
    "/etc/ssh/ssh_host_ed25519_key": "its SSH host key",
    "/etc/ssh/ssh_host_ed25519_key.pub": "its SSH host key",
    "/etc/mlx-hosts/stamp.json": "who deployed, when, from which commit; what was applied is equal",
    f"/{RECORDS}/*.json": "the times by which a changed file is found; the hashes are equal",
    "/var/cache/apt/*pkgcache.bin": "apt's caches of its lists, with their times in them",
    "/var/log/apt/history.log": "when apt ran",
    "/var/log/apt/term.log": "when apt ran",
    "/var/log/dpkg.log": "when dpkg ran",
    "/var/log/journal": "what happened, and when",
    "/var/log/wtmp": "who logged in, and when",
    "/var/tmp/systemd-private-*": "systemd's own directories, named by the boot",
}


@pytest.mark.lab
def test_a_rebuilt_host_equals_the_first(lab: Lab, tmp_path: Path) -> None:
    """With another machine id, address and checkout path, all of ``/`` is as it was."""
    host = lab.boot("rebuilt")
    deploy(lab, host, ROOT)
    first, own, known = host.tree(), identity(host), verified(host)

    host = host.new_identity()
    deploy(lab, host, another_checkout(tmp_path / "some where else"))
    assert not own & identity(host)
    assert differences(first, host.tree(), without=list(EXCLUSIONS)) == []
    assert verified(host) == known
    host.destroy()


def test_the_exclusions_are_few_and_each_has_its_reason() -> None:
    """The page of them is made of the list that the comparison goes by."""
    if os.environ.get("UPDATE"):
        DOCS.write_text(page())
    assert len(EXCLUSIONS) <= 20
    assert DOCS.read_text() == page()


def deploy(lab: Lab, host: Host, checkout: Path) -> None:
    limited = ("--limit", host.name, "-y", "--json")
    run = pyinfra(lab, *serving_tiny(lab), *limited, checkout=checkout)
    assert run.returncode == 0, str(run)
    assert serves(host)


def identity(host: Host) -> set[str]:
    return {host.address, host.public_key, host.run("cat /etc/machine-id").stdout}


def verified(host: Host) -> dict[str, object]:
    """Give what is left to compare in the files that are left out: all but the times."""
    records = {
        path.name: json.loads(path.read_text()) for path in (host.root / RECORDS).glob("*.json")
    }
    for record in records.values():
        # link, size, mtime, ctime, mode, uid, gid, sha256
        record["tree"] = {name: [*was[:2], *was[4:]] for name, was in record["tree"].items()}
    return {**records, "applied": stamp(host).applied}


def another_checkout(place: Path) -> Path:
    """Clone the repository, and copy what is not committed yet."""
    quietly = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet"]
    subprocess.run([*quietly, ROOT, place], check=True, timeout=60)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    return place


def page() -> str:
    rows = "\n".join(f"| `{path}` | {reason} |" for path, reason in EXCLUSIONS.items())
    return PAGE.format(count=len(EXCLUSIONS), rows=rows)


PAGE = """\
# Rebuilds

A host that is lost is made again from the inventory and the checkout alone. A test does so
(`tests/deploys/test_rebuild.py`): it deploys to a bare host, lists all of its `/` (what each path
is, its mode and owner, a file's SHA-256, a link's target), destroys the host, builds another one
from scratch, with another machine id, address and SSH key, and deploys to that from a clone of the
checkout under another path. The two listings are then equal but for these {count}:

| left out | because it holds |
|---|---|
{rows}

Times of files are not compared. What makes the rest equal: runtimes are named by what they are made
of, built from hash-locked files, their bytecode is checked by hash and not by time, what uv and pip
note about a download is taken away or is the same, and no path of the checkout goes to a host.

The page is made by that test (`UPDATE=1`). What it cannot show: packages of the distribution are
those of the day, so a host rebuilt later may have newer ones.
"""
