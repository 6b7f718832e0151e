"""How this machine downloads, so that its hosts can do the same."""

import ipaddress
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lab.machine import LabError

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
LOCAL_AUTHORITIES = Path("/usr/local/share/ca-certificates")

READ_THE_BUNDLE = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
"""uv and Python's ssl, pip, requests: each is told where the copied bundle stands."""

PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


def environment() -> dict[str, str]:
    """Return the variables that a download inside a host needs, as this machine has them.

    Index settings that are paths or file: URLs of this machine mean nothing in a host: left out.
    """
    found = {name: str(BUNDLE) for name in READ_THE_BUNDLE} if BUNDLE.exists() else {}
    for name in PASSED_ON:
        value = os.environ.get(name, "")
        if value and (name.lower() == "no_proxy" or _all_http(value)):
            found[name] = value
    return found


def resolver_settings(candidates: Sequence[Path] = RESOLVERS) -> str:
    """Return the first of this machine's resolver settings that names a server hosts can reach.

    A server on loopback (systemd-resolved's stub, say) answers this machine alone; the servers
    behind the stub stand in systemd-resolved's own file. Raises LabError if there is none.
    """
    for candidate in candidates:
        if candidate.exists():
            text = candidate.read_text()
            servers = re.findall(r"^nameserver\s+([^\s%]+)", text, re.MULTILINE)
            if any(not ipaddress.ip_address(server).is_loopback for server in servers):
                return text
    places = ", ".join(str(candidate) for candidate in candidates)
    raise LabError(f"no name server that a host could reach: put one into one of {places}")


def copy_into(root: Path) -> None:
    """Give a host's tree this machine's resolver and certificate authorities."""
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.write_text(resolver_settings())
    if BUNDLE.exists():
        shutil.copyfile(BUNDLE, root / BUNDLE.relative_to("/"))
    # The bundle is made anew whenever ca-certificates is upgraded in the host: from these too.
    for authority in sorted(LOCAL_AUTHORITIES.glob("*.crt")):
        shutil.copyfile(authority, root / authority.relative_to("/"))


def _all_http(value: str) -> bool:
    return all(urlsplit(word).scheme in {"http", "https"} for word in value.split())
