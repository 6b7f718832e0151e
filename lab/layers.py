"""Layers: what one host wrote, for others to start from.

A layer is the upper directory of a host's overlay without what makes a host itself; a host that
is booted over it is another host (name, machine id, address, keys) in the same state.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lab.bases import cache
from lab.machine import lock, read_json, remove_tree, write_json

if TYPE_CHECKING:
    from lab.host import Host

# Each host has its own of these: written before it boots, or by its systemd.
_OWN = (
    "etc/machine-id",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "var/lib/systemd/random-seed",
    "var/log/journal",
    "var/log/wtmp",
    "var/log/btmp",
    "var/log/lastlog",
)


def take(host: "Host", place: Path) -> list[Path]:
    """Copy what a host wrote to a new directory, the host held still; return the layers it is on.

    The new layer comes first.
    """
    upper = place / "upper"
    with host.held_still():
        host.copy_upper(upper)
    for own in _OWN:
        path = upper / own
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return [upper, *host.layers]


def cached(key: str, make: Callable[[], "Host"]) -> list[Path]:
    """Return the layers kept under a key, from a host that `make` boots if there are none yet.

    Made once, whichever process comes first; the others wait. The key must name everything that
    the state depends on (a digest of the code that makes it, say). The host is destroyed after.
    """
    layers = cache() / "layers"
    place = layers / key
    with lock(layers / f".{key}.lock"):
        if not place.exists():
            for left_behind in layers.glob(f".{key}.partial-*"):
                remove_tree(left_behind)
            host = make()
            partial = Path(tempfile.mkdtemp(prefix=f".{key}.partial-", dir=layers))
            below = take(host, partial)[1:]
            host.destroy()
            write_json(partial / "layer.json", {"below": [str(layer) for layer in below]})
            partial.rename(place)
    below = read_json(place / "layer.json")["below"]
    return [place / "upper", *(Path(layer) for layer in below)]
