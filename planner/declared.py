"""What an inventory may declare of a host, and every mistake in it at once.

Inventories and ``group_data`` hold plain dictionaries; here they become typed values before any
host is connected to. Pure: no pyinfra, no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/.*[^/]$")]
Flavour = Literal["cpu", "cuda12", "cuda13"]


class InventoryError(ValueError):
    """Wrong data in an inventory; ``mistakes`` holds one line for each."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class Declared(BaseModel):
    """Base of what is declared: immutable, and nothing in it that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Declared):
    """One NVIDIA device, as its driver reports it."""

    name: str
    memory_bytes: int = Field(gt=0)  # NVML's total, what `nvidia-smi` calls memory.total
    compute_capability: Annotated[str, StringConstraints(pattern=r"^\d+\.\d$")]


class Secret(Declared):
    """Where the controller finds a secret: a file's path or an environment variable's name."""

    file: str | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if (self.file is None) == (self.env is None):
            raise ValueError("give exactly one of `file` and `env`")
        return self


class Hub(Declared):
    """The model hub that a host downloads from."""

    endpoint: str = "https://huggingface.co"
    token: Secret | None = None


class Site(Declared):
    """What a site needs for downloads: proxy, certificates, index, interpreter."""

    # Exported to every download on the host: HTTPS_PROXY, SSL_CERT_FILE, UV_DEFAULT_INDEX, …
    environment: dict[str, str] = Field(default_factory=dict)
    python: AbsolutePath | None = None  # None: the host's own python3
    uv_cache: AbsolutePath | None = None  # a cache that outlives builds; None: one for each build


class Model(Declared):
    """A model to serve: where it comes from, its name, and the load it is served at."""

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Commit | None = None
    path: AbsolutePath | None = None  # a directory on the host, instead of repo and revision
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]  # what clients ask for
    slug: Annotated[str, StringConstraints(max_length=40)] = ""  # "": made from the name
    context: int = Field(gt=0)  # tokens: the longest prompt plus answer
    concurrency: int = Field(default=4, gt=0)  # requests generated for at once
    replicas: int | Literal["fill"] = Field(default=1)
    gpus: tuple[int, ...] | None = None  # pinned by hand; indices in PCI order
    hosts_spanned: int = Field(default=1, ge=1)  # >1: tensor parallel over that many hosts allowed

    @model_validator(mode="before")
    @classmethod
    def _slug_from_name(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("slug") and isinstance(data.get("name"), str):
            made = re.sub(r"[^a-z0-9]+", "-", data["name"].rpartition("/")[2].lower()).strip("-")
            return {**data, "slug": made[:40].strip("-")}
        return data

    @model_validator(mode="after")
    def _has_one_source(self) -> Model:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give either `repo` with `revision`, or `path`")
        if self.repo is not None and self.revision is None:
            raise ValueError("a `repo` needs a `revision`: the commit's 40 hexadecimal digits")
        if self.repo is None and self.revision is not None:
            raise ValueError("a `revision` belongs to a `repo`, not to a `path`")
        if not SLUG.fullmatch(self.slug):
            raise ValueError(f"slug: expected `[a-z0-9-]`, got {self.slug!r}; set `slug`")
        return self

    @property
    def source(self) -> str:
        """``repo@revision`` or the directory: what identifies the weights."""
        return f"{self.repo}@{self.revision}" if self.repo else str(self.path)


class Host(Declared):
    """One machine and what it is to be."""

    name: str
    flavour: Flavour | None = None  # None: the driver's branch decides; `cpu` is only ever declared
    gpus: tuple[str | Gpu, ...] | None = None  # in PCI order; None: whatever preflight detects
    memory_bytes: int | None = Field(default=None, gt=0)  # of a CPU host, to plan against
    models: tuple[Model, ...] = ()
    hub: Hub = Hub()
    site: Site = Site()
    mounts: tuple[AbsolutePath, ...] = ()  # must be mounted, or nothing starts or downloads
    shared_gpus: dict[int, int] = Field(default_factory=dict)  # GPU index: bytes others may hold
    models_lock: str = "inventories/models.lock"  # on the controller; what is known of each model

    @model_validator(mode="after")
    def _is_consistent(self) -> Host:
        for attribute in ("slug", "name"):
            values = [getattr(model, attribute) for model in self.models]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"models: {attribute} used twice: `{'`, `'.join(twice)}`")
        if self.flavour == "cpu" and self.gpus:
            raise ValueError("a host of flavour `cpu` has no `gpus`")
        count = None if self.gpus is None else len(self.gpus)
        for model in self.models:
            absent = [g for g in model.gpus or () if count is not None and not 0 <= g < count]
            if absent:
                raise ValueError(
                    f"models.{model.slug}: pinned to GPU {absent[0]}, which is not there: "
                    f"the host declares {count}"
                )
        return self


KEYS = frozenset(Host.model_fields) - {"name"}


def read_hosts(
    data: Mapping[str, Mapping[str, object]], *, foreign: Iterable[str]
) -> tuple[Host, ...]:
    """Make typed hosts of what the inventory says, by host name.

    ``foreign`` are keys that belong to others (the connector's, pyinfra's own). Raises
    ``InventoryError`` with every mistake of every host.
    """
    others = frozenset(foreign)
    hosts: list[Host] = []
    mistakes: list[str] = []
    for name, given in data.items():
        ours = {key: value for key, value in given.items() if key in KEYS}
        mistakes += [
            f"{name}: {key}: unknown; the keys are {', '.join(sorted(KEYS))}"
            for key in sorted(set(given) - KEYS - others)
        ]
        try:
            hosts.append(Host.model_validate({"name": name, **ours}))
        except ValidationError as error:
            mistakes += [f"{name}: {line}" for line in map(_sentence, error.errors())]
    if mistakes:
        raise InventoryError(mistakes)
    return tuple(hosts)


def _sentence(error: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in error["loc"])  # type: ignore[attr-defined]
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {error['input']!r}"
