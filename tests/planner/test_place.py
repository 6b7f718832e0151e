"""Models onto devices: what fits is placed, what does not is refused with both numbers."""

from dataclasses import replace

import pytest

from planner.declared import Gpu, Host, Measured, Model
from planner.demand import CUDA, buffers
from planner.fitting import Devices
from planner.placement import place
from planner.plan import Space
from planner.program import Program
from planner.spaces import Detected
from planner.traced import Kind, Rank, Traced, endings
from planner.why import why

GIB = 2**30
CARD = Gpu(
    name="NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    memory_bytes=97887 * 2**20,
    compute_capability="12.0",
)


def traced(weights, *, shards=True, bits=16):
    def rank(size):
        kinds = (Kind(kind="kv", count=32, token_bytes=4096 // size),)
        return Rank(
            weights=weights // size,
            kinds=kinds,
        )

    return Traced(
        mlx_lm="0.32.2",
        mlx="0.32.4",
        model_type="llama",
        layers=32,
        parameters=int(weights * 8 / bits),
        alone="",
        context_max=131072,
        head_dims=(128,),
        dtype="bfloat16",
        logits_row_bytes=256,
        loading=0,
        programs={},
        ranks={1: rank(1), 2: rank(2) if shards else "its architecture has no `shard`"},
    )


class Known:
    """A lock of what the test says."""

    def __init__(self, **models):
        self.models = models
        self.asked = set()  # for which processors

    def traced(self, model, processor, *, mlx_lm):
        assert "0.32.2" == mlx_lm
        self.asked.add(processor)
        return only(self.models[model.slug], processor)


def only(traced, processor):
    """With the prompts' evaluations that a trace for ``processor`` has, and no others."""
    others = {" kernels", " fused"} - {*endings(processor, traced.dtype, traced.head_dims)}
    programs = {k: it for k, it in traced.programs.items() if not k.endswith(tuple(others))}
    return replace(traced, programs=programs)


def model(name, **more):
    return Model(path=f"/models/{name}", name=name, context=8192, **more)


def test_a_model_goes_on_one_gpu_where_it_fits_and_over_two_where_not():
    """One GPU goes before tensor parallelism."""
    host = Host(name="h", gpus=(CARD, CARD), models=(model("small"), model("big")))

    plan = place((host,), Known(small=traced(16 * GIB), big=traced(120 * GIB)), mlx_lm="0.32.2")

    assert {"small.0": 1, "big.0": 2} == {p.instance: p.ranks for p in plan.placements}
    assert plan.fits


def test_more_cards_of_another_kind_make_nothing_unfit():
    """The roomiest card has none beside it with room; two smaller ones do."""
    h100 = Gpu(name="NVIDIA H100", memory_bytes=81559 * 2**20, compute_capability="9.0")
    big = {"gpus": (CARD, CARD, h100, h100), "shared_gpus": {1: 90 * GIB}}
    host = Host(name="h", **big, models=(model("big"),))

    plan = place((host,), Known(big=traced(120 * GIB)), mlx_lm="0.32.2")

    assert plan.fits
    assert [(2, 3)] == [one.gpus for one in plan.placements]
    assert "2 GPUs: " in why("big", (host,), Known(big=traced(120 * GIB)), plan, mlx_lm="0.32.2")


def test_a_model_that_is_added_last_moves_none_that_can_stay_with_less():
    """Six on three cards: the last has room where the others are told frugal settings."""
    sizes = [(4, 65536, 2), (4, 4096, 1), (30, 65536, 4), (12, 32768, 1), (12, 65536, 1)]
    sizes.append((30, 65536, 4))
    known = Known(**{f"m{at}": traced(weights * GIB) for at, (weights, *_) in enumerate(sizes)})
    models = tuple(
        Model(path="/m", name=f"m{at}", context=context, concurrency=concurrency)
        for at, (_, context, concurrency) in enumerate(sizes)
    )

    before, after = (
        place((Host(name="h", gpus=(CARD,) * 3, models=some),), known, mlx_lm="0.32.2")
        for some in (models[:-1], models)
    )

    assert before.fits
    assert after.fits
    where = {one.instance: one.gpus for one in after.placements}
    assert {one.instance: one.gpus for one in before.placements}.items() <= where.items()


def test_no_gpu_is_given_more_than_95_percent_of_its_memory():
    """The needs of all instances on a GPU add up to no more than is usable."""
    models = tuple(model(f"m{i}", replicas="fill") for i in range(3))
    host = Host(name="h", gpus=(CARD, CARD), models=models)

    plan = place((host,), Known(**{f"m{i}": traced(9 * GIB) for i in range(3)}), mlx_lm="0.32.2")

    for space in plan.spaces:
        on = [p.need.total for p in plan.placements if space.gpu in p.gpus]
        assert sum(on) <= space.usable <= 0.95 * CARD.memory_bytes
        assert on


def test_a_model_that_does_not_fit_is_refused_with_both_numbers():
    """The refusal says what is needed, what there is, and a context that would fit."""
    host = Host(name="h", gpus=(CARD,), models=(model("big"),))

    plan = place((host,), Known(big=traced(90 * GIB)), mlx_lm="0.32.2")

    (refusal,) = plan.refusals
    assert refusal.needed > refusal.available > 0
    assert "GiB" in refusal.sentence


def test_a_cpu_host_is_planned_against_the_memory_that_was_detected():
    """Undeclared memory is undecided until preflight has found it."""
    host = Host(name="c", flavour="cpu", models=(model("small"),))
    lock = Known(small=traced(GIB // 2))

    undecided = place((host,), lock, mlx_lm="0.32.2")
    assert ["c"] == [*undecided.undecided]
    assert not undecided.fits
    plan = place((host,), lock, mlx_lm="0.32.2", detected={"c": Detected(memory_bytes=16 * GIB)})
    assert plan.fits
    assert [None] == [member.gpu for member in plan.placements[0].members]


def test_what_others_may_hold_of_a_gpu_is_left_to_them():
    """Of 93 GiB that are usable a model of 80 fits, and beside 20 of a desktop's it does not."""
    lock, models = Known(big=traced(80 * GIB)), (model("big"),)
    alone = Host(name="h", gpus=(CARD,), models=models)
    beside = Host(name="h", gpus=(CARD,), models=models, shared_gpus={0: 20 * GIB})

    assert place((alone,), lock, mlx_lm="0.32.2").fits
    plan = place((beside,), lock, mlx_lm="0.32.2")
    assert plan.refusals[0].available == plan.spaces[0].usable
    assert plan.spaces[0].usable == int(0.95 * CARD.memory_bytes) - 20 * GIB


def test_each_rank_of_a_group_is_counted_with_its_nccl():
    """What was measured of it, on top of a process."""

    def process(ranks):
        figures = Measured(process_bytes=GIB, group_bytes=3 * GIB)
        host = Host(
            name="h", gpus=(CARD, CARD), models=(model("small", ranks=ranks),), measured=figures
        )
        (one,) = place((host,), Known(small=traced(16 * GIB)), mlx_lm="0.32.2").placements
        return one.need.process

    assert [process(1), process(2)] == [GIB, 4 * GIB]


def test_how_far_a_gpu_is_behind_depends_on_its_compute_capability():
    """MLX closes command buffers early where a card has little memory or is of no known kind."""

    def behind(capability):
        space = Space(
            host="h", gpu=0, name="a card", compute_capability=capability, total=GIB, usable=GIB
        )
        return Devices().of(space).behind

    assert behind("12.0") == behind("9.0") == CUDA.behind == buffers(100, 1000)
    assert behind("8.0") == buffers(20, 400)
    assert behind("8.9") == behind("7.5") == buffers(20, 100)
    assert buffers(20, 100).elements == 101 * 2**20  # `(elements >> 20) > 100`


def test_what_a_host_measured_goes_before_what_is_assumed():
    """A process that was seen to take 600 MiB is planned with those, on that host only."""
    figures = Measured(process_bytes=600 * 2**20)
    hosts = [
        Host(name="seen", gpus=(CARD,), models=(model("small"),), measured=figures),
        Host(name="unseen", gpus=(CARD,), models=(model("small"),)),
    ]

    plan = place(hosts, Known(small=traced(16 * GIB)), mlx_lm="0.32.2")

    process = {p.host: p.need.process for p in plan.placements}
    assert process == {"seen": 600 * 2**20, "unseen": 2 * GIB}


OLD = Gpu(name="an old card", memory_bytes=24 * GIB, compute_capability="7.5")


def in_steps(weights):
    """One whose chunks take 20 GiB where a card has no kernel for its attention, else 1."""

    def program(size):
        return Program(runs=((((({"": size}, {"": size}, {"": 1}, 1),), (0,))),))

    names = ("chunk", "admit", "stay")
    programs = {f"{name} fused": program(GIB) for name in names}
    programs |= {f"{name} kernels": program(20 * GIB) for name in names}
    return replace(traced(weights), programs=programs | {"join": program(1), "roll": program(1)})


@pytest.mark.parametrize("cards", [(CARD, OLD), (OLD, CARD)])
def test_a_rank_is_judged_on_each_of_the_cards_it_is_pinned_to(cards):
    """What the newer one does with one kernel, the older does in steps, whichever is first."""
    host = Host(name="h", gpus=cards, models=(model("m", gpus=(0, 1)),))

    (refusal,) = place((host,), Known(m=in_steps(16 * GIB)), mlx_lm="0.32.2").refusals

    assert refusal.needed > 28 * GIB
    assert refusal.available < 23 * GIB
    assert "on each of 2 GPUs (" in refusal.reason
    assert place((host,), Known(m=traced(16 * GIB)), mlx_lm="0.32.2").fits


def test_a_rank_is_judged_on_the_cards_of_every_host_of_its_span():
    """Pinned to the first GPU of each, of which one is older."""
    wide = model("m", hosts_spanned=2, gpus=(0,), ranks=2)
    more = {"flavour": "cuda13", "models": (wide,)}
    hosts = [
        Host(name=f"h{at}", gpus=(card,), fabric=f"10.0.0.{at + 1}", **more)
        for at, card in enumerate((CARD, OLD))
    ]

    assert place(hosts, Known(m=traced(16 * GIB)), mlx_lm="0.32.2").fits
    assert 2 == len(place(hosts, Known(m=in_steps(16 * GIB)), mlx_lm="0.32.2").refusals)


@pytest.mark.parametrize(
    ("processor", "declared", "found"),
    [
        ("gpu", {"gpus": (CARD,)}, ()),
        ("gpu", {}, (CARD,)),
        ("older gpu", {"gpus": (CARD, OLD)}, ()),
        ("older gpu", {"gpus": ("Tesla T4",)}, ()),
        ("older gpu", {}, (OLD,)),
        ("cpu", {"flavour": "cpu", "memory_bytes": 64 * GIB}, ()),
    ],
)
def test_a_model_is_planned_from_the_trace_for_what_its_host_has(processor, declared, found):
    """An older card among the others decides, declared or detected."""
    known = Known(m=traced(4 * GIB))
    host = Host(name="h", models=(model("m"),), **declared)

    plan = place((host,), known, mlx_lm="0.32.2", detected={"h": Detected(gpus=found)})

    assert plan.fits
    assert {processor} == known.asked


A100 = Gpu(name="NVIDIA A100-PCIE-40GB", memory_bytes=40 * GIB, compute_capability="8.0")
LARGE_OLD = Gpu(name="a large old card", memory_bytes=48 * GIB, compute_capability="7.5")
WIDE = {"hosts_spanned": 2}
PINNED = {**WIDE, "gpus": (0,), "ranks": 2}


def cards(*own, models):
    """Hosts with these cards each, which serve ``models`` together."""
    return [
        Host(name=f"h{at}", gpus=gpus, fabric=f"10.0.0.{at}", flavour="cuda13", models=serving)
        for at, (gpus, serving) in enumerate(zip(own, models, strict=True), 1)
    ]


@pytest.mark.parametrize("gpus", [((CARD,), (OLD,)), ((OLD,), (CARD,))])
@pytest.mark.parametrize("weights", [4, 60])
def test_a_span_is_planned_from_the_trace_for_its_oldest_card(gpus, weights):
    """Whichever of its hosts has it, placed or refused, and where every rule is told."""
    hosts = cards(*gpus, models=[(model("m", **PINNED),)] * 2)
    known = Known(m=in_steps(weights * GIB))

    plan = place(hosts, known, mlx_lm="0.32.2")

    assert {"older gpu"} == known.asked
    assert 2 == len(plan.refusals)
    assert why("m", hosts, known, plan, mlx_lm="0.32.2")


def test_what_would_make_a_span_fit_is_tried_with_the_same_trace():
    """Other cards of its hosts are older than the first one's."""
    hosts = cards((A100,), (A100, OLD), models=[(model("m", **WIDE),)] * 2)

    plan = place(hosts, Known(m=in_steps(150 * GIB)), mlx_lm="0.32.2")

    assert 2 == len(plan.refusals)
    assert all(one.ways_out for one in plan.refusals)


def test_every_rule_of_a_span_is_told_from_the_same_trace():
    """It fits each host, and the roomiest card of the second is an older one."""
    hosts = cards((A100,), (A100, LARGE_OLD), models=[(model("m", **WIDE),)] * 2)
    known = Known(m=in_steps(10 * GIB))

    plan = place(hosts, known, mlx_lm="0.32.2")

    assert plan.fits
    assert "large old card" in why("m", hosts, known, plan, mlx_lm="0.32.2")


def test_spans_that_share_a_host_are_planned_from_one_trace():
    """m on the first two hosts and on the last two, n on the two in the middle."""
    m, n = model("m", **PINNED), model("n", **PINNED, fabric_port=7800)
    hosts = cards((A100,), (A100,), (OLD,), (OLD,), models=[(m,), (m, n), (m, n), (m,)])
    known = Known(m=in_steps(100 * GIB), n=in_steps(2 * GIB))

    plan = place(hosts, known, mlx_lm="0.32.2")

    assert {"older gpu"} == known.asked
    assert {"h1", "h2", "h3", "h4"} == {one.host for one in plan.refusals if one.model == "m"}


def test_nothing_is_said_of_ranks_that_nobody_asked_for():
    """Two cards of two kinds: a model that fits neither is told the numbers of the larger."""
    host = Host(name="h", gpus=(OLD, CARD), models=(model("big"),))

    (refusal,) = place((host,), Known(big=traced(120 * GIB)), mlx_lm="0.32.2").refusals

    assert refusal.needed > refusal.available > 90 * GIB
    assert f"on one {CARD.name}" in refusal.reason
    assert [way for way in refusal.ways_out if way.startswith("2 GPUs of this kind")]


def test_a_model_is_judged_on_the_gpus_it_is_pinned_to():
    """By the smaller card's numbers, in the plan and where every rule is told."""
    host = Host(name="h", gpus=(CARD, OLD), models=(model("m", gpus=(1,)),))
    known = Known(m=traced(30 * GIB))

    placed = place((host,), known, mlx_lm="0.32.2")

    (refusal,) = placed.refusals
    assert refusal.reason.endswith("22.8 GiB are free there of 22.8 GiB usable")
    assert not [way for way in refusal.ways_out if "of its own" in way or CARD.name in way]
    said = why("m", [host], known, placed, mlx_lm="0.32.2")
    assert "below 8.0" in said
    assert "of 22.8 GiB: does not fit" in said
    assert ": fits" not in said
    assert "  2 GPUs:" not in said


def test_a_gpu_that_was_not_found_is_named():
    """Pinned to the third of two that preflight detected."""
    host = Host(name="h", models=(model("m", gpus=(2,)),))
    detected = {"h": Detected(gpus=(CARD, CARD))}

    plan = place((host,), Known(m=traced(GIB)), mlx_lm="0.32.2", detected=detected)

    assert "pinned to GPU 2, which is not there: the host has 2" == plan.refusals[0].reason
    assert why("m", [host], Known(m=traced(GIB)), plan, mlx_lm="0.32.2")


@pytest.mark.parametrize("flavour", [None, "cuda12", "cuda13"])
@pytest.mark.parametrize(("name", "capability"), [("Tesla V100", "7.0"), ("NVIDIA B300", "10.3")])
def test_a_host_with_a_card_that_mlx_has_no_kernels_for_is_refused(flavour, name, capability):
    """As preflight refuses it: all of its models, though another card would do."""
    card = Gpu(name=name, memory_bytes=200 * GIB, compute_capability=capability)
    models = (model("one"), model("two", gpus=(0,)))
    known = Known(one=traced(GIB), two=traced(GIB))
    declared = Host(name="h", gpus=(CARD, card), flavour=flavour, models=models)
    bare = Host(name="h", flavour=flavour, models=models)

    for plan in (
        place((declared,), known, mlx_lm="0.32.2"),
        place((bare,), known, mlx_lm="0.32.2", detected={"h": Detected(gpus=(CARD, card))}),
    ):
        assert not plan.placements
        assert ["one", "two"] == [refusal.model for refusal in plan.refusals]
        assert f"no kernels for GPU 1 ({name})" in plan.refusals[0].reason
    said = why("one", (declared,), known, plan, mlx_lm="0.32.2")
    assert "fits" not in said
    assert f"refused: {plan.refusals[0].reason}" in said


def test_a_span_over_such_a_host_is_refused_on_all_of_its_hosts():
    """The other one is named to whoever looks at the first."""
    card = Gpu(name="NVIDIA B300", memory_bytes=200 * GIB, compute_capability="10.3")
    wide = model("m", hosts_spanned=2)
    hosts = [
        Host(
            name=f"h{at}", gpus=(gpu,), fabric=f"10.0.0.{at + 1}", flavour="cuda13", models=(wide,)
        )
        for at, gpu in enumerate((CARD, card))
    ]

    plan = place(hosts, Known(m=traced(GIB)), mlx_lm="0.32.2")

    assert ["h0", "h1"] == [refusal.host for refusal in plan.refusals]
    assert plan.refusals[0].reason.startswith("h1: MLX has no kernels for GPU 0 (NVIDIA B300)")
    assert "fits" not in why("m", hosts, Known(m=traced(GIB)), plan, mlx_lm="0.32.2")


def test_a_card_that_nobody_knows_is_named_with_those_near():
    """Until the machine is looked at, which may have just that."""
    host = Host(name="h", gpus=("NVIDIA H20O",), models=(model("m"),))
    known = Known(m=traced(GIB))

    undecided = place((host,), known, mlx_lm="0.32.2").undecided
    detected = {"h": Detected(gpus=(CARD,))}

    assert "no card is known as `NVIDIA H20O` (near: `NVIDIA H20" in undecided["h"]
    short = host.model_copy(update={"gpus": ("RTX 4090",)})
    undecided = place((short,), known, mlx_lm="0.32.2").undecided
    assert "(near: `NVIDIA GeForce RTX 4090`)" in undecided["h"]
    assert place((host,), known, mlx_lm="0.32.2", detected=detected).placements


def test_what_was_measured_is_no_longer_said_to_be_assumed():
    """`--why` tells which figures are still somebody else's."""
    host = Host(
        name="h", gpus=(CARD,), models=(model("small"),), measured=Measured(process_bytes=GIB)
    )
    known = Known(small=traced(16 * GIB))

    said = why("small", [host], known, place([host], known, mlx_lm="0.32.2"), mlx_lm="0.32.2")

    assert "NCCL" in said
    assert "exo" not in said


def test_what_was_not_read_from_the_checkpoint_is_told():
    """And a context over what the model was made for, in the same place."""
    asked = model("small").model_copy(update={"context": 140000})
    host = Host(name="h", gpus=(CARD,), models=(asked,))
    known = Known(small=replace(traced(GIB), assumed=("as much again while it is loaded",)))

    said = why("small", [host], known, place([host], known, mlx_lm="0.32.2"), mlx_lm="0.32.2")

    assert "  assumed: as much again while it is loaded\n" in said
    assert "  but `context` 140000 is more than the 131072 tokens that its config.json" in said


def test_a_model_is_split_as_asked_though_it_fits_one_gpu():
    """Over so many GPUs, each of which holds its part."""
    host = Host(name="h", gpus=(CARD, CARD), models=(model("small", ranks=2),))

    (split,) = place((host,), Known(small=traced(16 * GIB)), mlx_lm="0.32.2").placements

    assert ((0, 1), 8 * GIB) == (split.gpus, split.need.weights)


def test_a_cpu_hosts_ranks_share_its_memory():
    """Two processes: what both take has room, or is refused."""
    host = Host(name="c", flavour="cpu", models=(model("small", ranks=2),), memory_bytes=16 * GIB)

    plan = place((host,), Known(small=traced(2 * GIB)), mlx_lm="0.32.2")
    (split,) = plan.placements
    assert (2, GIB) == (split.ranks, split.need.weights)
    assert 2 * split.need.total <= plan.spaces[0].usable

    (refusal,) = place((host,), Known(small=traced(16 * GIB)), mlx_lm="0.32.2").refusals
    assert "in each of 2 processes" in refusal.reason
    assert refusal.needed > refusal.available


def test_ranks_that_a_host_has_no_gpus_for_are_refused_in_words():
    """The number asked for stands beside the number there is."""
    host = Host(name="h", gpus=(CARD,), models=(model("small", ranks=2),))

    (refusal,) = place((host,), Known(small=traced(GIB)), mlx_lm="0.32.2").refusals

    assert "asks for 2 GPUs of one kind; there are 1" == refusal.reason
