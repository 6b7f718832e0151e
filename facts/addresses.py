"""The host's own IPv4 addresses."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override


class Addresses(FactBase[tuple[str, ...]]):
    """Every IPv4 address that the host takes packets for, loopback's among them, sorted."""

    @override
    def command(self) -> StringCommand:
        # Of the kernel's routes each line with an address has its kinds below it; no tool is asked
        # for, since a bare host promises none.
        text = "awk '/32 host LOCAL/ {print address} {address = $2}' /proc/net/fib_trie | sort -u"
        return StringCommand(text)

    @override
    def process(self, output: list[str]) -> tuple[str, ...]:
        try:
            return tuple(str(IPv4Address(line.strip())) for line in output)
        except AddressValueError as error:
            raise FactProcessError(f"/proc/net/fib_trie: expected addresses: {error}") from None
