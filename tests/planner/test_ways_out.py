"""What is told of a model that does not fit, done: it fits, and what fitted before still does."""

import re
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from planner.declared import Gpu, Host, Model
from planner.placement import place
from planner.report import report
from tests.planner.test_place import CARD, GIB, Known, model, traced
from tests.planner.test_spans import host as spanning

LARGE = Gpu(name="NVIDIA H200", memory_bytes=143771 * 2**20, compute_capability="9.0")
SMALL = Gpu(name="NVIDIA L4", memory_bytes=23034 * 2**20, compute_capability="8.9")


def plan(host, **known):
    return place((host,), Known(**known), mlx_lm="0.32.2")


def served(placed):
    return {(one.model, one.replica) for one in placed.placements}


MODELS = st.lists(
    st.tuples(
        st.integers(2, 70),  # GiB of weights
        st.sampled_from([4096, 32768, 65536, 131072]),
        st.integers(1, 12),  # requests at once
        st.sampled_from([1, 1, 2]),
        st.sampled_from([None, None, (0,), (1,), (0, 1)]),
    ),
    min_size=2,
    max_size=3,
)


# Not shrunk: hundreds of plans each, and a failure names the host as it is.
@settings(max_examples=30, deadline=None, phases=[Phase.generate])
@given(MODELS, st.sampled_from([(CARD, CARD), (LARGE, SMALL), (SMALL, SMALL)]))
def test_what_is_told_is_the_least_change_that_does(models, cards):
    """Of made-up hosts: done, all that fitted is served; one more, or a GPU less, and it is not."""
    known = {f"m{at}": traced(weights * GIB) for at, (weights, *_) in enumerate(models)}
    host = Host(
        name="h",
        gpus=cards,
        models=tuple(
            Model(path="/m", name=f"m{at}", context=context, concurrency=concurrency,
                  replicas=replicas, gpus=gpus)
            for at, (_, context, concurrency, replicas, gpus) in enumerate(models)
        ),
    )  # fmt: skip
    before = plan(host, **known)

    def holds(slug, *, more=(), **changed):
        changed_models = tuple(
            one.model_copy(update=changed) if one.slug == slug else one for one in host.models
        )
        changed_host = {"models": changed_models, "gpus": (*cards, *more)}
        after = plan(host.model_copy(update=changed_host), **known)
        return slug not in {one.model for one in after.refusals} and served(before) <= served(after)

    for refusal in before.refusals:
        for way in refusal.ways_out:
            if told := re.match(r"`(context|concurrency|replicas)` (\d+)", way):
                name, most = told[1], int(told[2])
                assert holds(refusal.model, **{name: most})
                made_for = name == "context" and most == 131072
                assert made_for or not holds(refusal.model, **{name: most + 1})
            if told := re.match(r"(\d+) GPUs of this kind \((.+?)\)", way):
                (card,) = {it for it in cards if it.name == told[2]}
                more = int(told[1]) - cards.count(card)
                pinned = next(one.gpus for one in host.models if one.slug == refusal.model)
                for count in (more, more - 1):
                    # Pinned ones are pinned to the new ones.
                    to = {"gpus": tuple(range(2, 2 + count))} if pinned and count else {}
                    assert holds(refusal.model, more=(card,) * count, **to) == (count == more)


def test_a_way_that_takes_another_models_room_is_none():
    """Each of two would fit alone; of neither is there a context at which both do."""
    models = (model("one"), model("two"))
    host = Host(name="h", gpus=(CARD,), models=models)

    (refusal,) = plan(host, one=traced(60 * GIB), two=traced(60 * GIB)).refusals

    told = refusal.ways_out[0]
    assert told.startswith(f"2 GPUs of this kind ({CARD.name}): ")
    assert told.endswith(" on one; other models have the room that there is")
    assert not [way for way in refusal.ways_out if way.startswith(("`context`", "`concurrency`"))]


def test_own_replicas_are_no_other_models():
    """Two of three fit."""
    host = Host(name="h", gpus=(CARD,), models=(model("one", replicas=3),))

    (refusal,) = plan(host, one=traced(35 * GIB)).refusals

    assert "`replicas` 2" in refusal.ways_out
    assert not [way for way in refusal.ways_out if "other models" in way]


def test_more_gpus_are_told_where_they_would_do():
    """Of 8 it would fit, on each; of one with nothing but weights in 3 GPUs' room by no number."""
    fitting, vast = traced(120 * GIB), traced(2000 * GIB)
    host = Host(name="h", gpus=(CARD,), models=(model("one"),))

    (fits,) = plan(host, one=fitting).refusals
    (never,) = plan(host, one=vast).refusals
    (whole,) = plan(host, one=traced(120 * GIB, shards=False)).refusals

    told = [way for way in fits.ways_out if "GPUs of this kind" in way]
    assert [way.partition(" (")[0] for way in told] == ["2 GPUs of this kind"]
    for refusal in (never, whole):
        assert not [way for way in refusal.ways_out if "GPUs of this kind" in way]


def test_as_many_gpus_are_told_as_it_takes_beside_the_others():
    """Over two it fits; one of them is another's."""
    host = Host(name="h", gpus=(CARD,), models=(model("other"), model("big")))

    (refusal,) = plan(host, other=traced(70 * GIB), big=traced(120 * GIB)).refusals

    (told,) = (way for way in refusal.ways_out if "GPUs of this kind" in way)
    assert told.startswith("3 GPUs of this kind")
    assert told.endswith("on each of 2")


def test_unpinning_is_told_where_it_would_do():
    """An equal GPU is idle; beside a smaller one it would be no use."""
    pinned = (model("one", gpus=(0,)),)

    (idle,) = plan(Host(name="h", gpus=(CARD, CARD), models=pinned), one=traced(120 * GIB)).refusals
    (none,) = plan(
        Host(name="h", gpus=(CARD, SMALL), models=pinned), one=traced(120 * GIB)
    ).refusals

    assert "without `gpus`: it fits on GPU 0+1" in idle.ways_out
    assert not [way for way in none.ways_out if "without" in way]


def test_fewer_bits_are_told_where_they_would_do_beside_the_others():
    """8 bits where it is alone, fewer where another has some of the room."""
    big, other = model("big"), model("other")

    def bits(*models):
        known = {"big": traced(100 * GIB, shards=False), "other": traced(40 * GIB)}
        (refusal,) = plan(Host(name="h", gpus=(CARD,), models=models), **known).refusals
        return next(way for way in refusal.ways_out if way.startswith("quantized"))

    assert bits(big).startswith("quantized to 8 bits (it has 16.0 a weight): about 53.1 GiB")
    assert bits(other, big).startswith("quantized to 5 bits")


def test_no_context_is_told_that_the_model_was_not_made_for():
    """The configuration says 131072; asked for is more, and more would fit."""
    asked = Model(path="/m", name="one", context=400000, concurrency=4)
    host = Host(name="h", gpus=(CARD,), models=(asked,))

    placed = plan(host, one=traced(20 * GIB))

    assert placed.refusals[0].ways_out[0] == "`context` 131072 at this concurrency"
    (warning,) = placed.warnings
    assert "h: one: `context` 400000 is more than the 131072 tokens that its config.json" in warning


def test_what_a_span_holds_is_not_hidden_from_a_hosts_own_models():
    """All that is usable is said, and that others have it."""
    wide = model("big", hosts_spanned=2)
    hosts = [spanning(1, wide, model("own")), spanning(2, wide)]

    placed = place(hosts, Known(big=traced(150 * GIB), own=traced(16 * GIB)), mlx_lm="0.32.2")

    (refusal,) = placed.refusals
    assert refusal.reason.endswith("of 90.8 GiB usable")
    assert [way for way in refusal.ways_out if "other models have the room that there is" in way]


def test_a_span_is_one_of_the_models_that_do_not_fit(capsys):
    """Refused on both hosts, counted once."""
    from rich.console import Console

    wide = model("vast", hosts_spanned=2)
    placed = place(
        [spanning(1, wide), spanning(2, wide)], Known(vast=traced(400 * GIB)), mlx_lm="0.32.2"
    )

    Console().print(report(placed))

    assert [one.span for one in placed.refusals] == [("h1", "h2")] * 2
    assert "1 of the models asked for do not fit" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_that_cannot_be_split_it_is_said_whatever_gpus_there_are(count):
    """And by how much memory others could, on as many as it takes them."""
    made = traced(156 * GIB, shards=False, bits=4.5)
    mimo = replace(made, model_type="mimo_v2_flash")

    (refusal,) = plan(Host(name="h", gpus=(CARD,) * count, models=(model("m"),)), m=mimo).refusals

    split, vllm = refusal.ways_out[:2]
    assert split.startswith(
        f"MLX cannot split it over 2 GPUs{' either' * (count == 1)}: its architecture has no"
    )
    no = "no: 148.3 GiB in AWQ 4-bit, 86.0 GiB over the GPUs; over 2 such: " * (count == 1)
    assert vllm.startswith(f"vLLM: {no}"), vllm
    assert "NVFP4, " in vllm


def ways(hosts, **known):
    placed = place(hosts, Known(**known), mlx_lm="0.32.2")
    return {(one.host, one.model): one.ways_out for one in placed.refusals}


def test_of_hosts_with_unlike_numbers_of_gpus_it_is_said_how_many_more():
    """As many on each, since none could use more; done, it fits."""
    vast = traced(240 * GIB)
    vast.ranks[4] = traced(120 * GIB).ranks[2]
    wide = model("vast", hosts_spanned=2)

    told = ways([spanning(1, wide), spanning(2, wide, gpus=(CARD,) * 3)], vast=vast)
    with_more = [spanning(n, wide, gpus=(CARD,) * (n * 2)) for n in (1, 2)]

    assert told["h1", "vast"][0].startswith("1 GPUs more of this kind (NVIDIA RTX PRO 6000")
    assert told["h1", "vast"][0].endswith("on each host: 64.6 GiB on each of 4")
    assert place(with_more, Known(vast=vast), mlx_lm="0.32.2").fits


def test_what_another_host_declares_alike_is_neither_changed_nor_told_of():
    """They have a model over both of them, and a model of the same name of their own each."""
    wide, own, fat = model("w", hosts_spanned=2), model("own", gpus=(0,)), model("fat", gpus=(0,))
    known = {"w": traced(2 * GIB), "own": traced(40 * GIB), "fat": traced(60 * GIB)}
    hosts = [spanning(1, wide, own), spanning(2, wide, fat, own, gpus=(CARD, CARD))]

    first, second, *_ = ways(hosts, **known)["h2", "own"]

    assert first == "without `gpus`: it fits on GPU 1"
    assert second.startswith("3 GPUs of this kind (NVIDIA RTX PRO 6000")
