"""What an inventory may declare of a host, and every mistake in it at once.

Inventories and ``group_data`` hold plain dictionaries; here they become typed values before any
host is connected to. Pure: no pyinfra, no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from ipaddress import IPv4Address
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

FABRIC_PORTS = 8  # that a group over hosts takes after its first one: one for each rank
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a name that a shell can export
PASTED = "hf_"  # what a token of the public hub begins with
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

    @model_validator(mode="wrap")
    @classmethod
    def _every_mistake(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Judge the fields, and what holds between them even where one of them is wrong.

        pydantic's own model validators are left out after a mistake in a field.
        """
        if not isinstance(data, dict):
            return handler(data)
        data = cls._completed(data)
        wrong = [
            InitErrorDetails(type=_contradiction(words), input=None)
            for words in cls._contradictions(data)
        ]
        try:
            made = handler(data)
        except ValidationError as error:
            wrong[:0] = [_again(one) for one in error.errors()]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return made

    @classmethod
    def _completed(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Fill in what follows from other fields."""
        return data

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        """Say what cannot hold together; ``data`` is as given, any field of it may be wrong."""
        del data
        yield from ()


class Gpu(Declared):
    """One NVIDIA device, as its driver reports it."""

    name: str
    memory_bytes: int = Field(gt=0)  # NVML's total, what `nvidia-smi` calls memory.total
    compute_capability: Annotated[str, StringConstraints(pattern=r"^\d+\.\d$")]


class Measured(Declared):
    """What a host of this kind was seen to take, instead of what the planner assumes of a device.

    Each is a field of ``planner.demand.Device``, which has its source.
    """

    process_bytes: int | None = Field(default=None, ge=0)  # of one process, outside of MLX's count
    group_bytes: int | None = Field(default=None, ge=0)  # of one rank of a group, on top

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        if not data:
            yield "give at least one figure, or leave it out"


class Secret(Declared):
    """Where the controller finds a secret: a file's path or an environment variable's name."""

    file: str | None = None
    env: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_itself(cls, data: object) -> object:
        if not isinstance(data, dict | Secret):
            raise _contradiction('expected `{"env": NAME}` or `{"file": PATH}`, not the secret')
        return data

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        file, env = data.get("file"), data.get("env")
        if (file is None) == (env is None):
            yield "give exactly one of `file` and `env`"
        if isinstance(env, str) and (env.startswith(PASTED) or not VARIABLE.fullmatch(env)):
            yield "env: expected the name of a variable, such as `HF_TOKEN`, not the secret"
        if isinstance(file, str) and file.startswith(PASTED):
            yield "file: expected a path, not the secret"


class Hub(Declared):
    """The model hub that a host downloads from."""

    endpoint: str = "https://huggingface.co"
    token: Secret | None = None


class Site(Declared):
    """What a site needs for downloads: proxy, certificates, index, interpreter."""

    # Exported to pip, uv and the hub's client: HTTPS_PROXY, SSL_CERT_FILE, UV_DEFAULT_INDEX, …
    # apt has a configuration of its own.
    environment: dict[str, str] = Field(default_factory=dict)
    python: AbsolutePath | None = None  # None: the host's own python3
    uv_cache: AbsolutePath | None = None  # a cache that outlives builds; None: one for each build

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        given = data.get("environment")
        for name in given if isinstance(given, dict) else ():
            if isinstance(name, str) and not VARIABLE.fullmatch(name):
                told = name.partition("=")[0]  # behind it stands what may be a secret
                yield f"environment: `{told}` cannot be exported: expected `[A-Za-z_][A-Za-z0-9_]*`"


def _reachable(address: str) -> str:
    try:
        read = IPv4Address(address)
    except ValueError:
        read = IPv4Address(0)
    if read.is_loopback or read.is_unspecified or read.is_multicast:
        raise ValueError("expected the IPv4 address at which other hosts reach this one")
    return str(read)


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
    ranks: Literal[1, 2, 4, 8] | None = None  # split over so many GPUs; None: as few as it fits
    hosts_spanned: Literal[1, 2, 4, 8] = 1  # an instance may go over so many hosts that declare it
    fabric_port: int = Field(default=7700, ge=1024, le=65000)  # of those, and the FABRIC_PORTS next

    @classmethod
    def _completed(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("slug") or not isinstance(data.get("name"), str):
            return data
        made = re.sub(r"[^a-z0-9]+", "-", data["name"].rpartition("/")[2].lower()).strip("-")
        return {**data, "slug": made[:40].strip("-")}

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        repo, revision = data.get("repo"), data.get("revision")
        if (repo is None) == (data.get("path") is None):
            yield "give either `repo` with `revision`, or `path`"
        elif repo is not None and revision is None:
            yield "a `repo` needs a `revision`: the commit's 40 hexadecimal digits"
        elif repo is None and revision is not None:
            yield "a `revision` belongs to a `repo`, not to a `path`"
        yield from _split(data)
        spanned = _spanned(data)
        replicas = data.get("replicas", 1)
        if isinstance(replicas, int) and replicas < 1:
            yield f"replicas: expected 1 or more, or `fill`, got {replicas}"
        if spanned > 1 and replicas != 1:
            yield (
                "replicas: an instance over several hosts is served once by them; "
                "declare it on as many more hosts for another"
            )
        slug = data.get("slug", "")
        if isinstance(slug, str) and "name" in data and not SLUG.fullmatch(slug):
            yield f"slug: expected `[a-z0-9-]`, got {slug!r}; set `slug`"

    @property
    def source(self) -> str:
        """``repo@revision`` or the directory: what identifies the weights."""
        return f"{self.repo}@{self.revision}" if self.repo else str(self.path)


class Tolerated(Declared):
    """A difference that a drift check is not to report, knowingly and not for ever."""

    resource: Annotated[str, StringConstraints(min_length=1)]  # kind:id, or a shell pattern of it
    attribute: str | None = None  # None: all of it
    reason: Annotated[str, StringConstraints(min_length=1)]
    until: date  # the last day it holds; drift again from the next one on, in UTC


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
    fabric: Annotated[str, AfterValidator(_reachable)] | None = (
        None  # its own address on the network between ranks of hosts
    )
    # GPU index: bytes that others may hold there.
    shared_gpus: dict[int, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    measured: Measured | None = None  # what its devices were seen to take; None: assumed
    tolerated: tuple[Tolerated, ...] = ()  # what drift is not to report
    models_lock: str = "inventories/models.lock"  # on the controller; what is known of each model

    @classmethod
    def _contradictions(cls, data: dict[str, Any]) -> Iterator[str]:
        given = data.get("models") or ()
        models = [_model(one) for one in given] if isinstance(given, list | tuple) else []
        if twice := _twice(model.get("name") for model in models):
            yield f"models: name used twice: `{'`, `'.join(twice)}`"
        # Two of one name have one slug of themselves: that is one mistake.
        if twice := _twice(
            {str(model.get("name")): model.get("slug") for model in models}.values()
        ):
            yield f"models: slug used twice: `{'`, `'.join(twice)}`; set `slug` of one"
        yield from _spanning(data, models)
        gpus = data.get("gpus")
        if data.get("flavour") == "cpu" and gpus:
            yield "a host of flavour `cpu` has no `gpus`"
        if isinstance(gpus, list | tuple) and not gpus and data.get("flavour") != "cpu":
            yield "gpus: none named: name them, leave it out, or set `flavour` to `cpu`"
        count = 0 if data.get("flavour") == "cpu" else None
        count = len(gpus) if isinstance(gpus, list | tuple) and gpus else count
        for model in models:
            for absent in _absent(model.get("gpus"), count):
                name = model.get("slug") or model.get("name")
                yield (
                    f"models.{name}: pinned to GPU {absent}, which is not there: "
                    f"the host declares {count}"
                )
        for absent in _absent(data.get("shared_gpus"), count):
            yield f"shared_gpus: GPU {absent} is not there: the host declares {count}"


KEYS = frozenset(Host.model_fields) - {"name"}


def _spanned(model: dict[str, Any]) -> int:
    """Give over how many hosts a model may go; one, where what is said is none of the numbers."""
    given = model.get("hosts_spanned", 1)
    return int(given) if isinstance(given, int) and given in {2, 4, 8} else 1


def _split(model: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with the GPUs and ranks that a model is given by hand."""
    pinned, ranks, spanned = model.get("gpus"), model.get("ranks"), _spanned(model)
    if pinned is not None and not pinned:
        yield "gpus: pinned to none: name one, or leave it out"
    elif isinstance(pinned, list | tuple) and ranks not in (None, len(pinned) * spanned):
        where = f" of each of {spanned} hosts" if spanned > 1 else ""
        pins = f"{len(pinned)}{where}"
        yield f"ranks: {ranks}, but `gpus` pins it to {pins}: leave one of both out"
    elif twice := _twice(map(str, pinned) if isinstance(pinned, list | tuple) else ()):
        # NCCL refuses two ranks on one GPU; only a CPU host's share a device, by `ranks`.
        yield f"gpus: GPU named twice: {', '.join(twice)}: a GPU has one rank"
    if isinstance(ranks, int) and ranks % spanned:
        yield f"ranks: {ranks} cannot be parted evenly over `hosts_spanned` {spanned}"


def _spanning(data: dict[str, Any], models: list[dict[str, Any]]) -> Iterator[str]:
    """Say what a host lacks for its models that may go over several hosts.

    Each of those hosts computes the whole group from the inventory alone.
    """
    wide = [model for model in models if _spanned(model) > 1]
    if not wide:
        return
    names = "`, `".join(str(model.get("slug")) for model in wide)
    if data.get("fabric") is None:
        yield f"fabric: missing: the address at which the other hosts of `{names}` reach this one"
    needed = ("memory_bytes",) if data.get("flavour") == "cpu" else ("gpus", "flavour")
    for key in needed:
        if not data.get(key):
            yield f"{key}: missing: must be declared where a model (`{names}`) spans hosts"
    ports = {str(model.get("slug")): model.get("fabric_port", 7700) for model in wide}
    for (one, at), (other, beside) in combinations(ports.items(), 2):
        if isinstance(at, int) and isinstance(beside, int) and abs(at - beside) <= FABRIC_PORTS:
            yield (
                f"fabric_port: {at} of `{one}` and {beside} of `{other}`: each takes its own and "
                f"the {FABRIC_PORTS} next; set `fabric_port` of one"
            )


def _again(error: Mapping[str, Any]) -> InitErrorDetails:
    """Make of a reported mistake one that can be raised once more, with others."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "contradiction":
        kind = _contradiction(context["words"])
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=context)


def _contradiction(words: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{words}", {"words": words})


def _twice(values: Iterable[object]) -> list[str]:
    given = [str(value) for value in values if value]
    return sorted({value for value in given if given.count(value) > 1})


def _model(given: object) -> dict[str, Any]:
    """Give what is said of a model, whether it was judged before, or cannot be one at all."""
    if isinstance(given, Model):
        return given.model_dump()
    return Model._completed(given) if isinstance(given, dict) else {}  # noqa: SLF001 - this file's


def _absent(indices: object, count: int | None) -> list[int]:
    """List the GPUs that are named and are not among ``count`` (``None``: not known yet)."""
    named = indices if isinstance(indices, list | tuple | dict) and count is not None else ()
    return [one for one in named if isinstance(one, int) and not 0 <= one < (count or 0)]
