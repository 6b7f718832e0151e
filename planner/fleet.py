"""All hosts of an inventory together: their typed data, and the models that go over several.

A model that may span hosts is declared by each of them, word for word the same; in the order of the
inventory so many of them as it needs are a **span**, which serves it once. Pure: no pyinfra.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import ValidationError

from planner.declared import KEYS, Host, InventoryError, Model

_UNTOLD = re.compile(r"^(hub|site)\b|token|passw|key|secret", re.IGNORECASE)


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
    mistakes += [] if mistakes else _uneven(hosts)
    if mistakes:
        raise InventoryError(mistakes)
    return tuple(hosts)


Span = tuple[Model, tuple[Host, ...]]


def spans(hosts: Iterable[Host]) -> tuple[Span, ...]:
    """Give each model that may span several hosts, with each set of those that serve it once."""
    found: list[Span] = []
    for slug, own in _declaring(hosts).items():
        model = next(one for one in wide(own[0]) if one.slug == slug)
        size = model.hosts_spanned
        found += [(model, own[at : at + size]) for at in range(0, len(own), size)]
    return tuple(found)


def span_of(host: Host, model: Model, hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Give the hosts over which ``model`` may go together with ``host``, itself among them."""
    with_it = (own for one, own in spans(hosts) if one == model and host in own)
    return next(with_it, (host,))


def _declaring(hosts: Iterable[Host]) -> dict[str, tuple[Host, ...]]:
    """Give the hosts that declare each model that may span several, by its slug."""
    found: dict[str, tuple[Host, ...]] = {}
    for host in hosts:
        for model in wide(host):
            found[model.slug] = (*found.get(model.slug, ()), host)
    return found


def related(host: Host, hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Give ``host`` and all whose models its own plan depends on, in order."""
    return next(kin for kin in families(hosts) if host in kin)


def families(hosts: Iterable[Host]) -> Iterator[tuple[Host, ...]]:
    """Give the hosts that are planned together: those that may serve a model together, and theirs.

    With all of their models: what one of them serves alone leaves less room to what they serve
    together.
    """
    everyone = [*hosts]
    kin = {host.name: frozenset((host.name,)) for host in everyone}
    for _, own in spans(everyone):
        together = frozenset().union(*(kin[host.name] for host in own))
        kin |= dict.fromkeys(together, together)
    found: dict[frozenset[str], list[Host]] = {}
    for host in everyone:
        found.setdefault(kin[host.name], []).append(host)
    return map(tuple, found.values())


def wide(host: Host) -> tuple[Model, ...]:
    """Give a host's models that may span several."""
    return tuple(model for model in host.models if model.hosts_spanned > 1)


def _uneven(hosts: Sequence[Host]) -> Iterator[str]:
    """Say where hosts do not declare a spanning model alike."""
    for slug, own in _declaring(hosts).items():
        first, *others = own
        (model,) = [one for one in wide(first) if one.slug == slug]
        for host in others:
            if model not in host.models:
                yield f"{host.name}: models.{slug}: is not declared as `{first.name}` declares it"
            for key, mine, other in (
                ("flavour", host.flavour, first.flavour),
                ("measured", host.measured, first.measured),
                ("site.python", host.site.python, first.site.python),
                ("models_lock", host.models_lock, first.models_lock),
            ):
                if mine != other:
                    yield f"{host.name}: {key}: not as of `{first.name}`, which serves `{slug}` too"
        if len(own) % model.hosts_spanned:
            names = ", ".join(host.name for host in own)
            yield (
                f"models.{slug}: hosts_spanned: {model.hosts_spanned}, but {len(own)} declare it "
                f"({names}): expected a multiple"
            )
        addresses = [host.fabric for host in own]
        if len({*addresses}) < len(addresses):
            yield f"models.{slug}: two of its hosts have the same `fabric` address"


def _sentence(error: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in error["loc"])  # type: ignore[attr-defined]
    message = str(error["msg"])
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if error["type"] == "contradiction":
        return f"{where}: {message}" if where else message
    given = error["input"]
    # It may be a secret, or hold one: of a hub, of a site, under such a name, in a list.
    untold = _UNTOLD.search(where) or not isinstance(given, str | int | float | None)
    return f"{where}: {message[:1].lower()}{message[1:]}" + ("" if untold else f", got {given!r}")
