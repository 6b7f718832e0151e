"""NVIDIA's devices on the PCI bus, which are there whether or not a driver is."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

# lspci is a package of its own; sysfs is always there. The link's target names the driver.
READ = """\
for d in /sys/bus/pci/devices/*; do
[ "$(cat "$d/vendor" 2>/dev/null)" = 0x10de ] || continue
b=$(readlink "$d/driver"); echo "${d##*/} $(cat "$d/class") $(cat "$d/device") ${b##*/}"
done"""
# PCI Code and ID Assignment Specification, base class 03h (display: VGA, 3D) and 06h 80h (bridge,
# other: what NVSwitch reports). A card's audio (04h) and USB (0Ch) functions are neither.
KINDS = {"0x03": "gpu", "0x0680": "nvswitch"}


class NvidiaDevices(FactBase[tuple[found.PciDevice, ...]]):
    """GPUs and NVSwitches, in PCI order."""

    @override
    def command(self) -> StringCommand:
        return StringCommand(READ)

    @override
    def process(self, output: list[str]) -> tuple[found.PciDevice, ...]:
        return tuple(sorted(map(_device, output), key=lambda device: device.address))


def _device(line: str) -> found.PciDevice:
    fields = line.split()
    if len(fields) not in (3, 4):
        raise FactProcessError(f"pci: expected `address class device [driver]`, got {line!r}")
    address, number, device = fields[:3]
    return found.PciDevice(
        address=address,
        kind=next((kind for prefix, kind in KINDS.items() if number.startswith(prefix)), "other"),
        device=device.removeprefix("0x"),
        driver=fields[3] if len(fields) > 3 else "",  # noqa: PLR2004
    )
