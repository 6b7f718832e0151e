"""The host's own record of the last run: it came to its end."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_the_last_run_came_to_its_end(host: Host) -> None:
    """The stamp tells who ran it, when and from which commit, and that nothing is left to do."""
    path = "/etc/mlx-hosts/stamp.json"
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "regular file 644 root root"
    text = host.run("cat %s", path).stdout
    stamp = json.loads(text)
    assert text == json.dumps(stamp, indent=1, sort_keys=True) + "\n"
    assert stamp["intended"] is None
    assert stamp["applied"]
    assert all(stamp["run"][word] for word in ("operator", "time", "commit"))
