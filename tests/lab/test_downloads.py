"""A host downloads as this machine does, where that means anything in a host."""

from pathlib import Path

import pytest

from lab.downloads import environment, resolver_settings
from lab.machine import LabError


def test_a_resolver_on_loopback_is_not_handed_on(tmp_path: Path) -> None:
    """Ubuntu's own resolv.conf names a stub on loopback: the servers behind it are given."""
    stub, behind = tmp_path / "stub", tmp_path / "behind"
    stub.write_text("# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\n")
    behind.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch example.org\n")
    assert resolver_settings([stub, behind]) == behind.read_text()
    assert resolver_settings([behind, stub]) == behind.read_text()
    with pytest.raises(LabError, match="no name server that a host could reach"):
        resolver_settings([stub, tmp_path / "missing"])


def test_only_settings_that_mean_something_in_a_host_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An index on the web is passed on, one in a directory of this machine is not."""
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example.org/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example.org/simple file:///opt/wheels")
    monkeypatch.setenv("no_proxy", "localhost,.example.org")
    found = environment()
    assert found["PIP_INDEX_URL"] == "https://pypi.example.org/simple"
    assert "PIP_EXTRA_INDEX_URL" not in found
    assert found["no_proxy"] == "localhost,.example.org"
