"""How this machine downloads, so that its hosts can do the same."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
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


def copy_into(root: Path) -> None:
    """Give a host's tree this machine's resolver and certificate authorities."""
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.write_text(Path("/etc/resolv.conf").read_text())
    if BUNDLE.exists():
        shutil.copyfile(BUNDLE, root / BUNDLE.relative_to("/"))
    # The bundle is made anew whenever ca-certificates is upgraded in the host: from these too.
    for authority in sorted(LOCAL_AUTHORITIES.glob("*.crt")):
        shutil.copyfile(authority, root / authority.relative_to("/"))


def _all_http(value: str) -> bool:
    return all(urlsplit(word).scheme in {"http", "https"} for word in value.split())
