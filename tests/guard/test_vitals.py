"""When the engine hangs, when one stream starves, and when nothing is wrong: by the clock alone."""

from __future__ import annotations

import pytest

from guard.ask import Delta, Progress
from guard.vitals import Hung, Stream, Vitals


@pytest.fixture
def vitals() -> Vitals:
    made = Vitals(floor_s=10, compile_s=100, prefill_step=512, prompt_concurrency=4)
    made.measured(128)
    return made


def enter(vitals: Vitals, prompt_tokens: int, now: float) -> Stream:
    stream = Stream(prompt_tokens, now)
    vitals.enter(stream, now)
    return stream


def seen(vitals: Vitals, prompt_tokens: int) -> None:
    """Let a prompt of this length go by, so that its kernels are compiled."""
    stream = enter(vitals, prompt_tokens, 0)
    vitals.sign(stream, Delta("a"), 0)
    vitals.sign(stream, Delta("b"), 0)
    vitals.leave(stream, 0)


def test_nobody_asks_and_nothing_hangs(vitals: Vitals) -> None:
    """Without streams there is no silence."""
    assert vitals.check(1e6) == []


def test_silence_is_allowed_for_the_work_between_two_signs(vitals: Vitals) -> None:
    """512 of 5,000 tokens at 128 a second, four times over, and the floor."""
    seen(vitals, 5000)
    enter(vitals, 5000, 0)
    assert vitals.allowed_s(0) == 10 + 4 * 512 / 128
    assert vitals.check(25.9) == []
    assert isinstance(vitals.check(26.1), Hung)


def test_a_first_shape_may_compile(vitals: Vitals) -> None:
    """Kernels are compiled when a shape runs first, and only then."""
    enter(vitals, 500, 0)
    assert vitals.check(120) == []
    assert isinstance(vitals.check(130), Hung)
    seen(vitals, 500)
    assert isinstance(vitals.check(130), Hung)


def test_a_step_that_told_its_end_has_compiled_its_shape(vitals: Vitals) -> None:
    """As mlx_lm.server tells: the end of each step, then that of the last token, then a token."""
    stream = enter(vitals, 40, 0)
    for done in (39, 40):
        vitals.sign(stream, Progress(done, 40), 0)
    vitals.sign(stream, Delta("a"), 0)
    vitals.leave(stream, 0)
    enter(vitals, 40, 0)
    assert vitals.allowed_s(0) == 10 + 4 * 40 / 128


def test_a_prefix_that_was_kept_is_no_work(vitals: Vitals) -> None:
    """Of 512 tokens one is left, which the first sign tells."""
    seen(vitals, 1)
    vitals.sign(enter(vitals, 512, 0), Progress(0, 1), 0)
    assert vitals.allowed_s(0) == 10 + 4 * 1 / 128


def test_who_comes_while_it_hangs_excuses_nothing(vitals: Vitals) -> None:
    """Neither its work nor the new shape that it would make: the step that runs has not taken it.

    The probe comes so wherever the first to wait is allowed more than the probe's interval.
    """
    for tokens in (1, 512):
        seen(vitals, tokens)
    enter(vitals, 512, 0)
    enter(vitals, 1, 10.5)
    assert vitals.allowed_s(11) == 10 + 4 * 512 / 128
    assert vitals.check(25.9) == []
    assert isinstance(vitals.check(26.1), Hung)


def test_who_comes_in_time_may_be_taken_together(vitals: Vitals) -> None:
    """Two prompts in one step: a shape of its own, seen only where both certainly were in it."""
    seen(vitals, 512)
    streams = [enter(vitals, 5120, 0), enter(vitals, 5120, 9.5)]
    both = 10 + 4 * 2 * 512 / 128
    assert vitals.allowed_s(11) == both + 100
    vitals.sign(streams[0], Progress(512, 5120), 11)
    assert vitals.allowed_s(11) == both + 100
    vitals.sign(streams[0], Progress(1024, 5120), 11.4)
    assert vitals.allowed_s(11.4) == both


def test_a_long_prefill_that_tells_is_no_hang(vitals: Vitals) -> None:
    """A thousand steps of 20 s each, far beyond the hang time altogether."""
    seen(vitals, 512_000)
    stream = enter(vitals, 512_000, 0)
    for step in range(1, 1000):
        vitals.sign(stream, Progress(step * 512, 512_000), step * 20.0)
        assert vitals.check(step * 20.0 + 19.9) == []


@pytest.mark.parametrize(("before", "quiet", "hung"), [((8, 5000), 20, 50), ((8,), 120, 150)])
def test_a_prompt_left_in_the_middle_still_takes_its_step(
    vitals: Vitals, before: tuple[int, ...], quiet: float, hung: float
) -> None:
    """The engine goes on with it until it can tell, and compiles for it where it is the first.

    That silence is not another stream's hang.
    """
    for tokens in before:
        seen(vitals, tokens)
    left = enter(vitals, 5000, 0)
    vitals.leave(left, 0)
    enter(vitals, 8, 0)
    assert vitals.check(quiet) == []
    assert isinstance(vitals.check(hung), Hung)


def test_the_pace_is_learnt_and_not_beyond_belief(vitals: Vitals) -> None:
    """Steps that slow down as the prompt grows widen the allowance, at most fifty times."""
    stream = enter(vitals, 512_000, 0)
    for step in range(1, 400):
        vitals.sign(stream, Progress(step * 512, 512_000), step * 1000.0)
    assert vitals.pace == pytest.approx(128 / 50)


def test_one_forgotten_stream_starves_alone(vitals: Vitals) -> None:
    """Others move, one has been silent beyond all work that was done meanwhile."""
    seen(vitals, 8)
    lost, moving = enter(vitals, 8, 0), enter(vitals, 8, 0)
    for stream in (lost, moving):
        vitals.sign(stream, Delta("a"), 0)
    for second in range(1, 30):
        vitals.sign(moving, Delta("a"), second)
    vitals.sign(moving, Delta("a"), 41)
    (starved,) = vitals.check(41)  # type: ignore[misc]
    assert starved.stream is lost


def test_a_stream_behind_a_long_prefill_does_not_starve(vitals: Vitals) -> None:
    """Silent for hours because another's prompt is processed: that is the engine's way."""
    seen(vitals, 512)
    quiet = enter(vitals, 8, 0)
    vitals.sign(quiet, Delta("a"), 0)
    long = enter(vitals, 512_000, 0)
    for step in range(1, 1000):
        vitals.sign(long, Progress(step * 512, 512_000), step * 4.0)
        assert vitals.check(step * 4.0) == []


def test_signs_that_are_heard_late_and_at_once_are_no_faster_engine(vitals: Vitals) -> None:
    """The guard was without a processor: the pace is what it was, and who waits does not starve."""
    seen(vitals, 512)
    quiet = enter(vitals, 8, 0)
    vitals.sign(quiet, Delta("a"), 0)
    long = enter(vitals, 512_000, 0)
    heard = [step * 4.0 for step in range(1, 25)]
    heard += [200 + step / 1000 for step in range(25, 50)]  # of 100 s
    heard += [step * 4.0 for step in range(51, 60)]
    for step, now in enumerate(heard, 1):
        vitals.sign(long, Progress(step * 512, 512_000), now)
        assert vitals.check(now) == []
        assert vitals.pace < 2 * 128


def test_a_client_that_does_not_read_is_not_the_engines_silence(vitals: Vitals) -> None:
    """A blocked stream is judged by its client's patience, not here."""
    stream = enter(vitals, 8, 0)
    stream.blocked_since = 1
    assert vitals.check(1e5) == []


def judged(vitals: Vitals, *, every_s: float, patience_s: float, lives: bool) -> float | None:
    """When an engine is called hung whose clients all give up and ask again, within 20 minutes.

    Alive, it takes a prompt of 512 tokens after another, 4 s for each, whoever still waits.  The
    probe comes after 30 s without a sign, as in the watch, and stays.
    """
    for tokens in (512, 1):
        seen(vitals, tokens)
    queue: list[Stream] = []
    probe: Stream | None = None
    quiet_since = next_at = busy_until = 0.0
    for tick in range(4 * 1200):
        now = tick / 4
        if now >= next_at:
            next_at = now + every_s
            queue.append(enter(vitals, 512, now))
        for stream in vitals.streams - {probe}:
            if now >= stream.entered + patience_s:
                vitals.leave(stream, now)
        if lives and queue and now >= (busy_until := max(busy_until, queue[0].entered + 4)):
            done = queue.pop(0)
            busy_until = now + 4
            if done in vitals.streams:
                vitals.sign(done, Delta("a"), now)
                vitals.leave(done, now)
                probe = None if done is probe else probe
        if isinstance(vitals.check(now), Hung):
            return now
        quiet_since = max(quiet_since, vitals.heard)
        if probe is None and now - quiet_since > 30:
            probe = enter(vitals, 1, now)
            queue.append(probe)
    return None


WAYS = [(1, 3), (5, 4), (6, 15), (4, 60)]  # the first asks more than the engine can, for ever


@pytest.mark.parametrize(("every_s", "patience_s"), WAYS)
def test_clients_that_give_up_do_not_put_the_verdict_off(
    vitals: Vitals, every_s: float, patience_s: float
) -> None:
    """None stays as long as a hung engine may be silent; the probe does."""
    found = judged(vitals, every_s=every_s, patience_s=patience_s, lives=False)
    assert found is not None
    steps = 30 / every_s + 9  # those left before the probe came, and two batches
    assert found < 30 + 10 + 100 + steps * 4 * 512 / 128


@pytest.mark.parametrize(("every_s", "patience_s"), WAYS)
def test_an_engine_busy_with_what_was_given_up_does_not_hang(
    vitals: Vitals, every_s: float, patience_s: float
) -> None:
    """It works through all of it before it comes to the probe, and nobody else hears it."""
    assert judged(vitals, every_s=every_s, patience_s=patience_s, lives=True) is None


def test_idle_time_is_no_silence(vitals: Vitals) -> None:
    """After an idle hour, and after one that gave up, a request has all of its time."""
    seen(vitals, 8)
    vitals.leave(enter(vitals, 8, 0), 9)
    enter(vitals, 8, 3600)
    assert vitals.check(3600 + 10) == []
    assert isinstance(vitals.check(3600 + 11), Hung)
