"""What a host can be declared to have, each kind a frozen record.

Standard library only: a host that checks itself runs this very file. An attribute that is ``None``
is not compared. Modes are octal strings (``"0644"``), sizes are bytes, digests are hexadecimal
SHA-256.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Base of all kinds; ``key`` names the attribute that identifies one within its kind."""

    kind: ClassVar[str]
    key: ClassVar[str]

    @property
    def id(self) -> str:
        """What tells this resource from others of its kind: a path, a name."""
        return str(getattr(self, self.key))

    @property
    def address(self) -> str:
        """Kind and id, unique within a manifest: ``file:/etc/mlx-hosts/stamp.json``."""
        return f"{self.kind}:{self.id}"

    def attributes(self) -> Json:
        """What is compared: every attribute with a value, but the one that identifies."""
        return {
            name: value
            for name in (field.name for field in fields(self))
            if name != self.key and (value := getattr(self, name)) is not None
        }

    def to_json(self) -> Json:
        """Give the JSON object that ``from_json`` reads."""
        return {"kind": self.kind, self.key: self.id, **self.attributes()}


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Resource):
    """A system user with its own group."""

    kind: ClassVar[str] = "user"
    key: ClassVar[str] = "name"
    name: str
    home: str | None = None
    shell: str | None = None
    groups: tuple[str, ...] | None = None  # supplementary, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Package(Resource):
    """A package of the distribution; its version is reported, never compared."""

    kind: ClassVar[str] = "package"
    key: ClassVar[str] = "name"
    name: str
    installed: bool | None = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Resource):
    """Installed packages whose names match a pattern, all held back from upgrades."""

    kind: ClassVar[str] = "hold"
    key: ClassVar[str] = "pattern"
    pattern: str  # a regular expression, matched against whole names without their architecture
    unheld: tuple[str, ...] | None = ()  # as apt takes them: `NAME`, or `NAME:ARCH`


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Resource):
    """What a file and a directory have in common."""

    key: ClassVar[str] = "path"
    path: str
    mode: str | None
    owner: str | None = "root"
    group: str | None = "root"
    instead: str | None = ""  # what stands in its place: a link, a directory where a file belongs


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Entry):
    """A directory; with ``entries`` it holds these names and no other."""

    kind: ClassVar[str] = "directory"
    mode: str | None = "0755"
    entries: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Entry):
    """A regular file, its content by digest."""

    kind: ClassVar[str] = "file"
    mode: str | None = "0644"
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime(Resource):
    """A virtual environment in a directory named by its digest, sealed by a record of its files."""

    kind: ClassVar[str] = "runtime"
    key: ClassVar[str] = "path"
    path: str
    record: str | None = None  # path of the record, outside the environment
    packages: str | None = None  # digest of what the lock says is inside
    changed: tuple[str, ...] | None = ()  # files that differ from the record, the first few
    retimed: bool | None = None  # files are as recorded, but for times, and so are read every time


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf(Resource):
    """A directory of sealed trees: the current ones, the one before them, and no other."""

    kind: ClassVar[str] = "shelf"
    key: ClassVar[str] = "path"
    path: str
    current: tuple[str, ...] | None = None  # names in use, sorted
    surplus: tuple[str, ...] | None = ()  # names that are neither in use nor the one kept before


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(Resource):
    """A model's files in a snapshot directory, verified against the hub's hashes."""

    kind: ClassVar[str] = "weights"
    key: ClassVar[str] = "path"
    path: str
    record: str | None = None
    files: str | None = None  # digest of names, sizes and hashes
    changed: tuple[str, ...] | None = ()
    retimed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit(Resource):
    """A systemd unit as systemd itself sees it."""

    kind: ClassVar[str] = "unit"
    key: ClassVar[str] = "name"
    name: str
    enabled: str | None = None  # `systemctl is-enabled`'s word
    active: str | None = None  # ActiveState
    fragment: str | None = None  # the unit file in use
    drop_ins: tuple[str, ...] | None = None  # paths, sorted
    stale: bool | None = False  # NeedDaemonReload
    restarts: int | None = None  # by systemd itself, since it was started or reset


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSet(Resource):
    """All the services and timers that systemd has loaded under a pattern, and no other."""

    kind: ClassVar[str] = "unit-set"
    key: ClassVar[str] = "pattern"
    pattern: str  # a shell pattern, as `systemctl list-units` takes it
    names: tuple[str, ...] | None = None  # sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(Resource):
    """A served model, or one rank of it: what its guard was started from, and that it is ready."""

    kind: ClassVar[str] = "instance"
    key: ClassVar[str] = "name"
    name: str  # SLUG.REPLICA, of a rank above 0 SLUG.REPLICA.RANK
    inputs: str | None = None  # digest of all that it is made of
    gpus: tuple[str, ...] | None = None  # their UUIDs
    planned_bytes: int | None = None  # of each of them
    state: str | None = "ready"
    deleted: bool | None = False  # runs files that are no longer there
    answers: bool | None = None  # says a word when asked, which only drift does, and on request

    @property
    def leader(self) -> str:
        """The name of the instance that answers: of rank 0, or its own."""
        return ".".join(self.name.split(".")[:2])

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"mlx-{'model' if self.name == self.leader else 'rank'}@{self.name}.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets(Resource):
    """TCP ports on which processes of one user listen, in the host's own network.

    Besides those at the host's address on the fabric, where its ranks listen as NCCL pleases.
    """

    kind: ClassVar[str] = "sockets"
    key: ClassVar[str] = "user"
    user: str
    fabric: str | None = None
    ports: tuple[int, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver(Resource):
    """The NVIDIA driver: what is loaded, and what programs link to."""

    kind: ClassVar[str] = "driver"
    key: ClassVar[str] = "name"
    name: str = "nvidia"
    module: str | None = None  # version of the loaded kernel module
    library: str | None = None  # version that nvidia-smi reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Resource):
    """One GPU by its UUID."""

    kind: ClassVar[str] = "gpu"
    key: ClassVar[str] = "uuid"
    uuid: str
    name: str | None = None
    pci: str | None = None
    memory_mib: int | None = None
    compute_mode: str | None = None
    mig: str | None = None
    ecc: str | None = None
    power_limit_watts: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSet(Resource):
    """All GPUs that the driver drives."""

    kind: ClassVar[str] = "gpu-set"
    key: ClassVar[str] = "name"
    name: str = "nvidia"
    uuids: tuple[str, ...] | None = None  # sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Reboot(Resource):
    """Whether packages wait for a reboot to come into use."""

    kind: ClassVar[str] = "reboot"
    key: ClassVar[str] = "name"
    name: str = "host"
    pending: bool | None = None


KINDS: dict[str, type[Resource]] = {
    kind.kind: kind
    for kind in (
        User,
        Package,
        Hold,
        Directory,
        File,
        Runtime,
        Shelf,
        Weights,
        Unit,
        UnitSet,
        Instance,
        Sockets,
        Driver,
        Device,
        DeviceSet,
        Reboot,
    )
}


def from_json(data: Json) -> Resource:
    """Read one resource; raises ``ValueError`` for an unknown kind or attribute."""
    given = dict(data)
    kind = KINDS.get(given.pop("kind", ""))
    if kind is None:
        raise ValueError(f"resource: kind: expected one of {', '.join(KINDS)}, got {data!r}")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{kind.kind}: unknown attribute: `{'`, `'.join(unknown)}`")
    # What the JSON does not say is not compared: a default belongs to the declaring side only.
    absent = {
        field.name: None
        for field in fields(kind)
        if field.name != kind.key and field.default is not MISSING
    }
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**{**absent, **values})
