"""An inventory's data: every mistake in it is told at once, each in one line of its own."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.declared import Host, InventoryError, Model
from planner.fleet import read_hosts

COMMIT = "0" * 40


def good() -> dict[str, Any]:
    """One host with two models, nothing wrong with it."""
    return {
        "flavour": "cuda13",
        "gpus": ["NVIDIA H200", "NVIDIA H200"],
        "models": [
            {"repo": "a/one", "revision": COMMIT, "name": "one", "context": 8192, "gpus": [0]},
            {"path": "/srv/two", "name": "two", "context": 8192},
        ],
        "hub": {"token": {"env": "HF_TOKEN"}},
    }


def first(data: dict[str, Any]) -> Any:
    return data["models"][0]


def second(data: dict[str, Any]) -> Any:
    return data["models"][1]


# What an operator mistypes, and what stands in the line that tells. No two touch the same key.
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a model without revision": (
        lambda data: first(data).pop("revision"),
        "models.0: a `repo` needs a `revision`",
    ),
    "an unknown key of the host": (lambda data: data.update(modles=[]), "modles: unknown"),
    "an unknown key of a model": (
        lambda data: second(data).update(contxt=1),
        "models.1.contxt: unknown key",
    ),
    "a wrong type": (
        lambda data: first(data).update(context="eight"),
        "models.0.context: input should be a valid integer",
    ),
    "no context": (lambda data: second(data).pop("context"), "models.1.context: missing"),
    "a served name used twice": (
        lambda data: data["models"].append(
            {"path": "/srv/three", "name": "two", "slug": "three", "context": 8192}
        ),
        "models: name used twice: `two`",
    ),
    "a GPU that is not there": (
        lambda data: first(data).update(gpus=[2]),
        "models.one: pinned to GPU 2, which is not there: the host declares 2",
    ),
    "a shared GPU that is not there": (
        lambda data: data.setdefault("shared_gpus", {}).update({7: 1}),
        "shared_gpus: GPU 7 is not there",
    ),
    "less than nothing of a shared GPU": (
        lambda data: data.setdefault("shared_gpus", {}).update({0: -1}),
        "shared_gpus.0: input should be greater than or equal to 0, got -1",
    ),
    "no replica": (
        lambda data: second(data).update(replicas=0),
        "models.1: replicas: expected 1 or more, or `fill`, got 0",
    ),
    "an instance over three hosts": (
        lambda data: first(data).update(hosts_spanned=3),
        "models.0.hosts_spanned: input should be 1, 2, 4 or 8",
    ),
    "ranks that are not the GPUs pinned to": (
        lambda data: first(data).update(ranks=2),
        "models.0: ranks: 2, but `gpus` pins it to 1: leave one of both out",
    ),
    "ranks that no trace has": (
        lambda data: second(data).update(ranks=3),
        "models.1.ranks: input should be 1, 2, 4 or 8",
    ),
    "a measurement of nothing": (
        lambda data: data.update(measured={}),
        "measured: give at least one figure",
    ),
    "two sources": (
        lambda data: second(data).update(repo="a/two"),
        "models.1: give either `repo` with `revision`, or `path`",
    ),
    "a relative path": (
        lambda data: data.update(mounts=["data"]),
        "mounts.0: string should match pattern",
    ),
    "no source of a secret": (
        lambda data: data["hub"]["token"].clear(),
        "hub.token: give exactly one of `file` and `env`",
    ),
    "an unknown flavour": (
        lambda data: data.update(flavour="cuda14"),
        "flavour: input should be 'cpu', 'cuda12' or 'cuda13'",
    ),
}


def test_the_example_has_no_mistake() -> None:
    """What the mistakes below are made in is right without them."""
    (host,) = read_hosts({"gpu": good()}, foreign=())
    assert [model.slug for model in host.models] == ["one", "two"]


@given(st.sets(st.sampled_from(sorted(MISTAKES)), min_size=1))
def test_every_mistake_is_told_in_a_line_of_its_own(names: set[str]) -> None:
    """Whatever is wrong together, each mistake has one line and there are no others."""
    data = good()
    for name in names:
        MISTAKES[name][0](data)
    with pytest.raises(InventoryError) as told:
        read_hosts({"gpu": data}, foreign=())
    expected = [f"gpu: {MISTAKES[name][1]}" for name in names]
    lines = list(told.value.mistakes)
    for words in expected:
        assert sum(line.startswith(words) for line in lines) == 1, (words, lines)
    assert len(lines) == len(expected), lines


SECRET = "hf_swordfish99"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"hub": {"token": SECRET}}, 'hub.token: expected `{"env": NAME}` or `{"file": PATH}`'),
        ({"hub": {"token": {"env": [SECRET]}}}, "hub.token.env: input should be a valid string"),
        ({"hub": {"token": {"env": SECRET}}}, "hub.token: env: expected the name of a variable"),
        ({"hub": {"token": {"env": f" {SECRET}"}}}, "hub.token: env: expected the name of a var"),
        ({"hub": {"token": {"file": SECRET}}}, "hub.token: file: expected a path, not the secret"),
        ({"hub": SECRET}, "hub: input should be a valid dictionary"),
        ({"site": {"environment": {"HTTPS_PROXY": [SECRET]}}}, "site.environment.HTTPS_PROXY: "),
        ({"site": {"environment": {"HTTPS-PROXY": SECRET}}},
         "site: environment: `HTTPS-PROXY` cannot be exported"),
        ({"site": {"environment": {f"A B={SECRET}": ""}}},
         "site: environment: `A B` cannot be exported"),
        ({"models": {"token": SECRET}}, "models: input should be a valid tuple"),
    ],
)  # fmt: skip
def test_a_mistake_beside_a_secret_does_not_tell_it(more: dict[str, Any], words: str) -> None:
    """What was expected is said, and nothing of what was given: errors end in logs."""
    with pytest.raises(InventoryError) as told:
        read_hosts({"gpu": {**good(), **more}}, foreign=())
    assert str(told.value).startswith(f"gpu: {words}")
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gpus": []}, "gpus: none named"),
        ({"models": [{"path": "/m", "name": "m", "context": 1, "gpus": [0, 1, 0]}]},
         "models.0: gpus: GPU named twice: 0"),
        ({"models": [{"path": "/m", "name": "m", "context": 1, "replicas": -1}]},
         "models.0: replicas: expected 1 or more"),
    ],
)  # fmt: skip
def test_counts_that_mean_nothing_are_mistakes(more: dict[str, Any], words: str) -> None:
    """No GPU at all, one twice, fewer replicas than one."""
    with pytest.raises(InventoryError) as told:
        read_hosts({"gpu": {**good(), **more}}, foreign=())
    assert [f"gpu: {words}"] == [line[: len(words) + 5] for line in told.value.mistakes]


def test_a_cpu_host_may_say_that_it_has_no_gpus() -> None:
    """In place of those that its group has."""
    (host,) = read_hosts({"cpu": {"flavour": "cpu", "gpus": []}}, foreign=())
    assert host.gpus == ()


def test_mistakes_of_all_hosts_are_told_together() -> None:
    """One run tells what is wrong with every host, the hosts named."""
    with pytest.raises(InventoryError) as told:
        read_hosts({"one": {"gpus": 7}, "two": {"flavour": "rocm"}, "three": good()}, foreign=())
    assert [line.partition(":")[0] for line in told.value.mistakes] == ["one", "two"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists))
def test_nonsense_is_a_mistake_and_never_a_crash(nonsense: object) -> None:
    """Whatever stands where models, GPUs or a name belong is told as a mistake or is right."""
    for data in (
        {"models": nonsense},
        {"models": [nonsense]},
        {"gpus": nonsense, "models": [{"gpus": nonsense, "name": nonsense, "slug": nonsense}]},
        {"hub": nonsense, "site": nonsense, "shared_gpus": nonsense},
    ):
        with suppress(InventoryError):
            read_hosts({"host": data}, foreign=())


def test_keys_of_others_are_left_to_them() -> None:
    """What belongs to the connector or to pyinfra is no mistake."""
    (host,) = read_hosts({"gpu": {"ssh_user": "me", **good()}}, foreign={"ssh_user"})
    assert host.name == "gpu"


def test_typed_values_are_taken_as_they_are() -> None:
    """Hosts made in code, of models made in code, are judged alike."""
    model = Model(path="/srv/two", name="org/Two 2", context=1)
    assert Host(name="gpu", models=(model,)).models[0].slug == "two-2"
    with pytest.raises(ValueError, match="name used twice"):
        Host(name="gpu", models=(model, model))
