"""From nothing to the first token, for as long as something moves."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from pathlib import Path

from guard import gpu
from guard.ask import Ask, EngineBroke
from guard.errors import Refusal
from guard.parts import Failed, Parts
from guard.process import EngineProcess
from guard.watch import EXIT_S, judge_link, probe
from guard.weights import Incomplete, fingerprint

PACE_TOKENS = (4, 128)  # prompts of the measurement at the start, the longer if the shorter is
PACE_S = 0.5  # quicker than this; a CPU takes half a minute for the longer one


async def start(parts: Parts) -> None:
    await _wait_for_gpu(parts)
    await _meet(parts)
    parts.engine_module.keep_kernels(parts.config)
    environment = _environment(parts)
    try:
        parts.process = await EngineProcess.start(parts.command, environment)
    except OSError as error:
        raise Failed(f"the engine cannot be started: {error}") from None
    parts.state.engine_pid = parts.process.pid
    parts.state.move("loading")
    try:
        warming = asyncio.create_task(_follow(parts) if parts.follower else _warm(parts))
        await _while_it_moves(parts, warming)
    finally:
        warming.cancel()
    if parts.link is not None and not parts.follower:
        parts.link.tell_ready()
    parts.state.move("ready")
    parts.notifier.ready(parts.state.words)


async def _meet(parts: Parts) -> None:
    """All ranks are there with the same weights, or Failed."""
    if parts.link is None:
        return
    try:
        parts.link.about["weights"] = await asyncio.to_thread(fingerprint, Path(parts.config.model))
    except (Incomplete, OSError) as error:
        raise Failed(f"the weights are not whole: {error}") from None
    meeting = asyncio.create_task(parts.link.meet())
    deadline = time.monotonic() + parts.config.start_timeout_s
    try:
        while not meeting.done():
            if time.monotonic() > deadline:
                raise Failed(f"the group did not come together: {parts.link.words}")
            parts.state.progress(parts.link.words, extend_s=parts.config.start_timeout_s)
            await asyncio.wait({meeting}, timeout=0.5)
            parts.raise_if_left()
        meeting.result()
    finally:
        meeting.cancel()


def _environment(parts: Parts) -> dict[str, str]:
    """The engine's; a rank's once all are there, when its network is certainly up."""
    group = parts.config.group
    if group is None:
        return parts.environment
    try:
        more = parts.engine_module.group_environment(group, Path(parts.config.run_dir))
    except OSError as error:
        raise Failed(str(error)) from None
    return parts.environment | more


async def _follow(parts: Parts) -> None:
    assert parts.link is not None  # noqa: S101 - a follower has one
    await parts.link.ready.wait()


async def _wait_for_gpu(parts: Parts) -> None:
    if not parts.config.gpu_uuids:
        return
    began = time.monotonic()

    def say(why: str) -> None:
        if time.monotonic() - began > parts.config.start_timeout_s:
            raise Failed(why)
        parts.state.progress(why, extend_s=parts.config.start_timeout_s)

    while True:
        asked = time.monotonic()
        answer = gpu.ask(parts.config.gpu_uuids, parts.config.planned_bytes)
        while not (await asyncio.wait({answer}, timeout=1.0))[0]:
            say(f"the NVIDIA driver has not answered for {time.monotonic() - asked:.0f} s")
            parts.raise_if_left()
        if (why := answer.result()) is None:
            return
        say(why)
        await parts.sleep(1.0)


async def _while_it_moves(parts: Parts, warming: asyncio.Task[None]) -> None:
    """Wait for the first token as long as the engine reads, grows or computes."""
    assert parts.process is not None  # noqa: S101 - just started
    whole = max(1, parts.engine_module.weights_bytes(Path(parts.config.model)))
    patience = parts.config.start_timeout_s + parts.config.compile_allowance_s
    signs, moved = (0, 0), time.monotonic()
    group = parts.config.group
    deadline = moved + group.start_deadline_s if group is not None else None
    if group is not None and parts.follower:
        patience = group.start_deadline_s  # it sits in a collective until rank 0 asks
    while not warming.done():
        await asyncio.wait(
            {warming, parts.process.exited}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
        )
        parts.raise_if_left()
        if parts.process.ended:
            raise Failed(f"the engine {parts.process.ended} while starting")
        judge_link(parts)
        now = time.monotonic()
        if deadline is not None and now > deadline:
            raise Failed("the group generated no token before its deadline")
        if (seen := parts.process.signs()) != signs:
            signs, moved = seen, now
            share = min(100, 100 * seen[0] // whole)
            parts.state.progress(
                f"{share} % of {whole / 1e9:.2f} GB read, {seen[1] >> 20} MiB resident",
                extend_s=patience,
            )
        elif now - moved > patience:
            raise Failed(f"nothing moved for {patience:.0f} s while {parts.state.words}")
    warming.result()


async def _warm(parts: Parts) -> None:
    """The first token, the facts, and the pace of a prefill; raises Failed."""
    # The tokenizer loads beside the engine: its imports alone take seconds.
    patience_s = parts.config.start_timeout_s
    counting = asyncio.create_task(parts.tokenizer.facts(patience_s=patience_s))
    try:
        await _until_it_listens(parts)
        await _one_token(parts, "1")
        parts.state.move("warming")
        facts = await parts.engine.facts()
        if parts.link is not None and not facts["batchable"]:
            raise Failed("this model is not served in batches, which a rank group must be")
        parts.desk.fingerprint = str(facts["fingerprint"])
        parts.metrics.identify(parts.config, facts)
        parts.desk.facts = await counting
        # OpenAI's default temperature takes a sampler of its own, which is compiled here.
        await _one_token(parts, "4", temperature=1.0)
        await _measure_pace(parts)
    except EngineBroke as error:
        raise Failed(await _why_it_broke(parts, error)) from None
    except Refusal as refusal:
        raise Failed(f"no tokens can be counted: {refusal}") from None
    finally:
        counting.cancel()
    try:
        await probe(parts)  # so that the first one that matters compiles nothing any more
    except Failed:
        parts.broke_by_itself = True
        raise


async def _until_it_listens(parts: Parts) -> None:
    while True:
        with suppress(EngineBroke):
            await parts.engine.alive()
            return
        await asyncio.sleep(0.2)


async def _why_it_broke(parts: Parts, error: EngineBroke) -> str:
    """Its process says more, if it is dead, and then its generation thread."""
    assert parts.process is not None  # noqa: S101 - it was asked
    parts.broke_by_itself = True
    await asyncio.wait({parts.process.exited}, timeout=EXIT_S)
    with suppress(EngineBroke):
        if not await parts.engine.alive():
            return "the engine's generation thread died while starting"
    return f"the engine broke off while {parts.state.now}: {error}"


async def _measure_pace(parts: Parts) -> None:
    for tokens in PACE_TOKENS:
        length = min(tokens, parts.config.context_tokens // 2)
        # Twice: the first one compiles kernels.
        for digit in "23":
            began = time.monotonic()
            await _one_token(parts, f"{digit} " * length)
            took_s = time.monotonic() - began
        parts.vitals.measured(
            await parts.tokenizer.count_text("3 " * length, most=length * 2) / took_s
        )
        if took_s > PACE_S:
            break
    parts.metrics.pace.set(parts.vitals.pace)


async def _one_token(parts: Parts, prompt: str, *, temperature: float = 0.0) -> None:
    ask = Ask(prompt=prompt, max_tokens=1, temperature=temperature)
    async with aclosing(parts.engine.generate(ask)) as events:
        async for _ in events:
            pass
