"""Judge the NVIDIA driver of a host: loaded, of one piece, new enough, answering."""

from __future__ import annotations

from collections.abc import Iterator

from planner import requirements
from planner.declared import Host
from planner.found import HostFacts, KernelModule, PciDevice, Smi
from planner.refusal import Refusal
from planner.requirements import spell, version

INSTALL = (
    "install NVIDIA's driver, branch 580 or newer, with the open kernel modules "
    "(Ubuntu: `apt install nvidia-driver-580-open`; Debian: `nvidia-open` from NVIDIA's "
    "repository), and reboot"
)
# The manual of nvidia-smi, "Return value", which are NVML's own error numbers (nvml.h).
NO_DEVICE, LOST, MISMATCH = 6, 15, 18


def driver(found: HostFacts) -> str:
    """Give the driver's version, ``""`` where there is none."""
    if found.smi is not None and found.smi.gpus:
        return found.smi.gpus[0].driver
    return found.kernel_module.version if found.kernel_module is not None else ""


def judge(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    """Give every reason against the driver, which hides what may be wrong with the GPUs."""
    smi, module, pci = found.smi, found.kernel_module, found.pci
    if smi is None or module is None or pci is None:
        return  # said already: it could not be read
    yield from _loaded(module, on_the_bus(pci))
    yield from _answers(smi, module, on_the_bus(pci))
    yield from _is_new_enough(driver(found), declared)
    yield from _has_its_fabric(module, pci)


def _loaded(module: KernelModule, bus: str) -> Iterator[Refusal]:
    if module.nouveau:
        yield Refusal(
            needed="NVIDIA's kernel module to drive the GPUs",
            found="nouveau is loaded",
            way_out="blacklist nouveau (`/etc/modprobe.d`, `update-initramfs -u`) and " + INSTALL,
        )
    elif not module.version and not bus:
        yield Refusal(
            needed="an NVIDIA GPU",
            found="none on the PCI bus, and no NVIDIA driver",
            way_out="declare `flavour: cpu` if it is to serve from its CPU",
        )
    elif not module.version:
        signed = " (Secure Boot is on: the module must be signed, or its key enrolled)"
        yield Refusal(
            needed="the NVIDIA kernel module loaded",
            found=f"{bus}, no `nvidia` module loaded",
            way_out=INSTALL + (signed if module.secure_boot else ""),
        )


def _answers(smi: Smi, module: KernelModule, bus: str) -> Iterator[Refusal]:
    if smi.status is None:
        yield Refusal(
            needed="an answer from `nvidia-smi`",
            found="it hung and was given up",
            way_out="look for `NVRM: Xid` in `dmesg`, then reboot the host",
        )
    elif smi.lost or smi.status == LOST or "Unable to determine" in smi.said:
        yield Refusal(
            needed="every GPU to answer",
            found=f"{len(smi.gpus)} of {bus}: {smi.said or smi.lost[0]}",
            way_out="a GPU has fallen off the bus: power-cycle the host, reseat the card",
        )
    elif not module.version or smi.status == 0:
        return  # there is no driver to ask, or it answers
    elif smi.status == MISMATCH:
        yield Refusal(
            needed="the driver's kernel module and libraries of one version",
            found=f"kernel module {module.version}, {_library(smi.said)}",
            way_out="reboot the host: the driver was upgraded under the loaded module",
        )
    elif smi.status == NO_DEVICE and module.open is False:
        yield Refusal(
            needed="every GPU to answer",
            found=f"the proprietary kernel module {module.version} drives none of {bus}",
            way_out="Blackwell needs NVIDIA's open kernel modules: install them "
            "(Ubuntu: `apt install nvidia-driver-580-open`) and reboot",
        )
    else:
        yield Refusal(
            needed="an answer from `nvidia-smi`",
            found=f"exit status {smi.status}: {smi.said or 'no message'}",
            way_out="repair the driver: " + INSTALL,
        )


def _is_new_enough(driver: str, declared: Host) -> Iterator[Refusal]:
    wanted = declared.flavour
    floor = requirements.DRIVER[wanted] if wanted else min(requirements.DRIVER.values())
    if driver and version(driver) < floor:
        leave_out = wanted and requirements.flavour(driver)
        yield Refusal(
            needed=f"NVIDIA driver {spell(floor)} or newer"
            + (f" for the declared flavour `{wanted}`" if wanted else ""),
            found=f"driver {driver}",
            way_out=INSTALL + (", or leave `flavour` out" if leave_out else ""),
        )


def _has_its_fabric(module: KernelModule, pci: tuple[PciDevice, ...]) -> Iterator[Refusal]:
    switches = sum(device.kind == "nvswitch" for device in pci)
    if switches and module.fabric_manager != "active":
        yield Refusal(
            needed="`nvidia-fabricmanager.service` active, since there are NVSwitches",
            found=f"{switches} NVSwitches, the service is `{module.fabric_manager or 'not there'}`",
            way_out="install the fabric manager of the driver's exact version and "
            "`systemctl enable --now nvidia-fabricmanager`",
        )


def on_the_bus(pci: tuple[PciDevice, ...]) -> str:
    """Say how many GPUs there are, whatever the driver says; ``""`` for none."""
    gpus = sum(device.kind == "gpu" for device in pci)
    return f"{gpus} NVIDIA GPU{'s' * (gpus != 1)} on the PCI bus" if gpus else ""


def _library(said: str) -> str:
    words = said.rpartition("NVML library version:")
    return f"library {words[2].strip()}" if words[1] else "libraries of another"
