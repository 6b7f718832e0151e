"""Layers: what one host wrote, for others to start from.

A layer is the upper directory of a host's overlay without what makes a host itself; a host that
is booted over it is another host (name, machine id, address, keys) in the same state.
"""

import os
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

_KEPT = 3


def take(host: "Host", place: Path) -> list[Path]:
    """Copy what a host wrote to a new directory, the host held still; return the layers it is on.

    The new layer comes first.
    """
    upper = place / "upper"
    with host.held_still():
        host.copy_upper(upper)
    forget_who_it_was(upper)
    return [upper, *host.layers]


def forget_who_it_was(upper: Path) -> None:
    """Take away what is a host's own from what it wrote."""
    for own in _OWN:
        path = upper / own
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def cached(name: str, digest: str, make: Callable[[], "Host"]) -> list[Path]:
    """Return the layers kept under a name and a digest, from a host that `make` boots if need be.

    Made once, whichever process comes first; the others wait. The digest must be of everything
    that the state depends on (of the code that makes it, say). The host is destroyed after. Of
    each name the three used last are kept.
    """
    layers = cache() / "layers"
    place = layers / f"{name}.{digest}"
    with lock(layers / f".{name}.lock"):
        if not place.exists():
            for left_behind in layers.glob(f".{name}.partial-*"):
                remove_tree(left_behind)
            host = make()
            partial = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=layers))
            below = take(host, partial)[1:]
            host.destroy()
            write_json(partial / "layer.json", {"below": [str(layer) for layer in below]})
            partial.rename(place)
        os.utime(place)
        _forget_old(layers, name)
    below = read_json(place / "layer.json")["below"]
    return [place / "upper", *(Path(layer) for layer in below)]


def _forget_old(layers: Path, name: str) -> None:
    """Remove a name's layers but for those used last, and those that a host is on."""
    mounted = Path("/proc/self/mountinfo").read_text()
    by_use = sorted(layers.glob(f"{name}.*"), key=lambda place: place.stat().st_mtime)
    for place in by_use[:-_KEPT]:
        if str(place) not in mounted:
            remove_tree(place)
