"""Models' files: those of the pinned commit, in the hub cache's layout, as the hub hashed them."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from tests.host.declared import Instance

# What each entry of a snapshot is: its link, and the size, owner and mode of what it leads to. With
# `deep`, also its content as the hub hashes it: SHA-256, or git's blob id.
LIST = r"""
import hashlib, json, os, sys
top, deep = sys.argv[1], sys.argv[2] == "deep"
found = {}
for folder, _, names in os.walk(top):
    for path in (os.path.join(folder, name) for name in names):
        at = os.stat(path)
        entry = {"link": os.readlink(path) if os.path.islink(path) else None, "size": at.st_size,
                 "owner": at.st_uid, "mode": oct(at.st_mode & 0o7777)}
        if deep:
            sha, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % at.st_size)
            with open(path, "rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    sha.update(block)
                    git.update(block) if at.st_size < 1 << 25 else None
            entry |= {"sha256": sha.hexdigest(), "oid": git.hexdigest()}
        found[os.path.relpath(path, top)] = entry
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def seen() -> dict[str, dict[str, dict]]:
    """What was seen of a snapshot, by host and path: reading it all takes a while."""
    return {}


@pytest.fixture
def listed(
    host: Host,
    instance: Instance,
    seen: dict[str, dict[str, dict]],
    request: pytest.FixtureRequest,
) -> dict[str, dict]:
    """The snapshot's entries on the host, read to the byte unless the run is `--shallow`."""
    if "repo" not in instance.model:
        pytest.skip("a directory that somebody else keeps")
    where = f"{instance.host.name}:{instance.snapshot}"
    if where not in seen:
        how = "shallow" if request.config.getoption("--shallow") else "deep"
        program = host.check_output("python3 -I -c %s %s %s", LIST, instance.snapshot, how)
        seen[where] = json.loads(program)
    return seen[where]


def test_the_snapshot_is_the_pinned_commits(listed: dict[str, dict], instance: Instance) -> None:
    """Its files have the names and sizes that the hub lists at that commit, and the content."""
    hashes = ["sha256", "oid"]
    expected = {one["path"]: one for one in instance.files}
    assert listed.keys() == expected.keys()
    for name, file in expected.items():
        found = listed[name]
        assert found["size"] == file["size"], name
        for kind in [kind for kind in hashes if kind in file and kind in found][:1]:
            assert found[kind] == file[kind], name


def test_files_are_links_to_blobs_named_by_their_hash(
    listed: dict[str, dict], instance: Instance
) -> None:
    """Every tool that reads the hub's cache finds them; two commits share what they share."""
    for file in instance.files:
        up = "../" * (2 + file["path"].count("/"))
        expected = f"{up}blobs/{file.get('sha256') or file['oid']}"
        assert listed[file["path"]]["link"] == expected


def test_nobody_but_root_can_change_them(listed: dict[str, dict]) -> None:
    """What is served is root's, for all to read and for nobody else to write."""
    found = {(entry["owner"], entry["mode"]) for entry in listed.values()}
    assert found == {(0, "0o644")}


def test_their_record_is_kept(host: Host, instance: Instance) -> None:
    """The record that later runs compare them with is there, root's, and names the files."""
    if "repo" not in instance.model:
        pytest.skip("a directory that somebody else keeps")
    folder = instance.snapshot.split("/")[-3]
    path = f"/opt/mlx-hosts/records/{folder}-{instance.model['revision'][:12]}.json"
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "regular file 644 root root"
    record = json.loads(host.check_output("cat %s", path))
    assert record["tree"].keys() == {file["path"] for file in instance.files}
