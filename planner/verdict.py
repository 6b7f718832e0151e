"""Judge what was found on a host by what MLX needs and what the inventory declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from planner import driver_verdict, gpu_verdict, requirements
from planner.bound import Bound, BoundGpu
from planner.declared import Flavour, Host
from planner.found import HostFacts
from planner.refusal import Refusal
from planner.requirements import spell, version

GIB = 1024**3


def judge(
    found: HostFacts, declared: Host, *, room: Mapping[str, int] | None = None
) -> tuple[Refusal, ...]:
    """Give every reason why ``found`` cannot become ``declared``; none means go.

    ``room`` is how many bytes will be written below each path.
    """
    checks: list[Iterable[Refusal]] = [
        _unread(found),
        _system(found),
        _interpreter(found, declared),
    ]
    checks += [
        lacking(found, room or {}),
        _mounts(found, declared),
        _fabric(found, declared),
        _memory(found, declared),
        _packages(found),
    ]
    if declared.flavour != "cpu":
        checks += [driver_verdict.judge(found, declared), gpu_verdict.judge(found, declared)]
    return tuple(refusal for check in checks for refusal in check)


def lacking(found: HostFacts, room: Mapping[str, int]) -> tuple[Refusal, ...]:
    """Say on which file system so many bytes below each path have no room."""
    return tuple(_lacking(found, room))


def _lacking(found: HostFacts, room: Mapping[str, int]) -> Iterator[Refusal]:
    places = {place.path: place for place in found.room or ()}
    needed: dict[str, list[str]] = {}
    for path in room:
        if path in places:
            needed.setdefault(places[path].filesystem, []).append(path)
    for paths in needed.values():
        total = sum(room[path] for path in paths)
        place = places[paths[0]]
        if total > place.free_bytes:
            yield Refusal(
                needed=f"{total / GIB:.1f} GiB free for {', '.join(f'`{p}`' for p in paths)}",
                found=f"{place.free_bytes / GIB:.1f} GiB free on `{place.mounted_on}`",
                way_out="make room, or mount a larger file system there",
            )


def flavour(found: HostFacts, declared: Host) -> Flavour | None:
    """Tell which runtime the host is to have: the declared one, else by the driver's branch."""
    if declared.flavour is not None:
        return declared.flavour
    driver = driver_verdict.driver(found)
    return requirements.flavour(driver) if driver else None


def bind(found: HostFacts, declared: Host) -> Bound:
    """Bind the declared host to what was found; only for a host that was not refused.

    Raises ``ValueError`` for one that should have been.
    """
    chosen = flavour(found, declared)
    if (
        chosen is None
        or found.distribution is None
        or found.kernel is None
        or found.glibc is None
        or found.python is None
        or found.service_manager is None
        or found.memory is None
    ):
        raise ValueError(f"{declared.name}: cannot be bound: judge it first")
    gpus = found.smi.gpus if found.smi is not None and chosen != "cpu" else ()
    return Bound(
        flavour=chosen,
        architecture=found.kernel.architecture,
        distribution=found.distribution.id,
        distribution_version=found.distribution.version,
        kernel=found.kernel.release,
        glibc=found.glibc,
        systemd=found.service_manager.version,
        python=found.python.path,
        python_version=found.python.version,
        memory_bytes=found.memory.total_bytes,
        driver=gpus[0].driver if gpus else None,
        cuda=(found.cuda or None) if gpus else None,
        gpus=tuple(
            BoundGpu(
                uuid=gpu.uuid,
                pci=gpu.pci,
                name=gpu.name,
                memory_bytes=_told(gpu.memory_bytes),
                compute_capability=gpu.compute_capability,
                ecc=gpu.ecc,
                power_limit_watts=gpu.power_limit_watts,
            )
            for gpu in gpus
        ),
    )


def _told(memory_bytes: int | None) -> int:
    if memory_bytes is None:
        raise ValueError("a GPU that shares the machine's memory cannot be bound: judge it first")
    return memory_bytes


def _unread(found: HostFacts) -> Iterator[Refusal]:
    for line in found.unread:
        yield Refusal(
            needed="an answer that can be read",
            found=line,
            way_out="look at it on the host",
        )


def _system(found: HostFacts) -> Iterator[Refusal]:
    if found.distribution is not None:
        floor = requirements.DISTRIBUTIONS.get(found.distribution.id)
        if floor is None or version(found.distribution.version) < floor:
            yield Refusal(
                needed="Debian 12 or newer, or Ubuntu 22.04 or newer",
                found=found.distribution.name,
                way_out="reinstall the host with one of these",
            )
    if found.kernel is not None and found.kernel.architecture not in requirements.ARCHITECTURES:
        yield Refusal(
            needed=f"one of the architectures {', '.join(sorted(requirements.ARCHITECTURES))}",
            found=found.kernel.architecture,
            way_out="there are no MLX wheels for it; use another machine",
        )
    if found.glibc is not None and version(found.glibc) < requirements.GLIBC:
        yield Refusal(
            needed=f"glibc {spell(requirements.GLIBC)} or newer, which MLX's wheels are built for",
            found=f"glibc {found.glibc}" if found.glibc else "another C library",
            way_out="reinstall the host with a newer release; no glibc can be added to this one",
        )
    if (manager := found.service_manager) is not None and (
        manager.first_process != "systemd" or manager.version < requirements.SYSTEMD
    ):
        yield Refusal(
            needed=f"systemd {requirements.SYSTEMD} or newer as process 1",
            found=f"`{manager.first_process}` as process 1, systemd {manager.version or 'absent'}",
            way_out="use a host (or a container) that boots systemd of a newer release",
        )


def _interpreter(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    if (python := found.python) is None:
        return
    seen = version(python.version)
    if not requirements.PYTHON <= seen[:2] < requirements.PYTHON_BELOW:
        given = declared.site.python is not None
        yield Refusal(
            needed=f"Python {spell(requirements.PYTHON)} or newer, "
            f"below {spell(requirements.PYTHON_BELOW)}",
            found=f"`{python.path}` is {python.version or 'not there'}",
            way_out="give another interpreter as `site.python`"
            if given
            else "`apt install python3`"
            if not python.version
            else "install another beside it and give its path as `site.python`",
        )


def _mounts(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    if found.mounts is None:
        return
    mounted = {mount.path: mount for mount in found.mounts}
    for path in declared.mounts:
        if path not in mounted or mounted[path].read_only:
            yield Refusal(
                needed=f"`{path}` mounted and writable, as declared in `mounts`",
                found="mounted read-only" if path in mounted else "nothing mounted there",
                way_out=f"mount it (`/etc/fstab`, then `mount {path}`), or do not declare it",
            )


def _fabric(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    if found.addresses is None or declared.fabric is None:
        return
    if declared.fabric not in found.addresses:
        others = [one for one in found.addresses if not one.startswith("127.")]
        yield Refusal(
            needed=f"{declared.fabric} as an address of its own, as declared in `fabric`",
            found=", ".join(others) or "no address but loopback's",
            way_out="give the interface between the hosts that address, or declare the one it has",
        )


def _packages(found: HostFacts) -> Iterator[Refusal]:
    if found.package_manager:
        yield Refusal(
            needed="the package manager free, which was waited for",
            found="; ".join(found.package_manager),
            way_out="let it finish, or look why it does not, and run this again",
        )


def _memory(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    if found.memory is None or declared.memory_bytes is None:
        return
    if found.memory.total_bytes < declared.memory_bytes:
        yield Refusal(
            needed=f"{declared.memory_bytes / GIB:.1f} GiB of memory, as declared",
            found=f"{found.memory.total_bytes / GIB:.1f} GiB",
            way_out=f"declare `memory_bytes` of {found.memory.total_bytes} or less and plan anew",
        )
