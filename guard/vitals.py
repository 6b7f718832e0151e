"""Does the engine live?  Pure: signs and times come in, a verdict comes out.

A sign is a token or a keepalive on any stream.  What may pass between two signs follows from the
plan: the engine prefills at most ``prompt_concurrency`` prompts by ``prefill_step`` tokens, padded
to the longest, before it says anything.  Who comes later waits for its next step, and excuses
nothing.  Clients that give up take their silence along; the probe, which comes where nothing was
heard for a while, does not give up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from guard.ask import Event, Progress

SAFETY = 4.0  # times the expected time between two signs: prompts get slower as they get longer
SLOWEST = 50.0  # times slower than measured at the start, the pace is not believed any more
LEARNING = 0.2
SAMPLE_S = 0.5  # a prompt is timed for so long: signs that we were late to hear come all at once
FASTER = 2.0  # times the pace, the most that one sample is believed


@dataclass(slots=True, eq=False)
class Stream:
    """One sequence inside the engine."""

    prompt_tokens: int
    entered: float
    blocked_since: float | None = None
    """Since when nothing more of it is taken: its silence is not the engine's."""
    last_sign: float = 0.0
    prefilled: int = 0
    timed_since: float | None = None
    timed_from: int = 0
    """Prompt tokens that were processed by then."""
    answering: bool = False
    work_at_sign: float = 0.0

    @property
    def left(self) -> int:
        """Prompt tokens still to be processed, as far as is known."""
        return 0 if self.answering else max(1, self.prompt_tokens - self.prefilled)


@dataclass(frozen=True, slots=True)
class _Abandoned:
    """A step of a prompt whose client is gone: the engine finishes it all the same."""

    step: int  # tokens
    entered: float
    until: float  # for so long it is believed, and until one that entered later was heard
    known: bool  # whether its shape has run before


@dataclass(frozen=True, slots=True)
class Hung:
    silent_s: float
    allowed_s: float

    def __str__(self) -> str:
        return f"no sign of life for {self.silent_s:.1f} s, {self.allowed_s:.1f} s are allowed"


@dataclass(frozen=True, slots=True)
class Starved:
    stream: Stream
    silent_s: float


@dataclass(slots=True, kw_only=True)
class Vitals:
    floor_s: float
    """Silence that is always allowed."""
    compile_s: float
    """Added while a shape runs for the first time since the start: kernels are being compiled."""
    prefill_step: int
    prompt_concurrency: int
    pace: float = 100.0
    """Prompt tokens a second: measured at the start, learnt from then on."""
    streams: set[Stream] = field(default_factory=set)
    heard: float = 0.0
    """When the last sign came, whoever came and went since."""
    _reached: float = 0.0  # when the last of those entered that were heard: the engine has an order
    _last_sign: float = 0.0
    _work: float = 0.0
    _slowest: float = 2.0
    _prefilled_shapes: set[tuple[int, int]] = field(default_factory=set)
    _decoded_width: int = 0
    _abandoned: list[_Abandoned] = field(default_factory=list)
    _answering: int = 0

    def measured(self, pace: float) -> None:
        self.pace = max(pace, 0.1)
        self._slowest = self.pace / SLOWEST

    def enter(self, stream: Stream, now: float) -> None:
        if not self.streams:
            self._last_sign = now
        stream.last_sign = now
        stream.work_at_sign = self._work
        self.streams.add(stream)

    def leave(self, stream: Stream, now: float) -> None:
        """A prompt left in the middle is still being processed: the engine sees it step by step."""
        if stream.left:
            step = min(stream.left, self.prefill_step)
            known = self._prefill_shape() in self._prefilled_shapes
            until = now + self.floor_s + 2 * SAFETY * step / self.pace
            until += 0 if known else self.compile_s
            self._abandoned.append(_Abandoned(step, stream.entered, until, known))
        self.streams.discard(stream)
        self._answering -= stream.answering

    def sign(self, stream: Stream, event: Event, now: float) -> None:
        if isinstance(event, Progress):
            if event.total:
                stream.prompt_tokens = min(stream.prompt_tokens, event.total)  # less what was kept
                self._prefill(stream, event.done, now)
        elif stream.answering:
            self._decoded_width = max(self._decoded_width, self._answering.bit_length())
        else:
            self._ran()
            stream.answering = True
            self._answering += 1
        stream.last_sign = self._last_sign = self.heard = now
        self._reached = max(self._reached, stream.entered)
        stream.work_at_sign = self._work

    def _prefill(self, stream: Stream, done: int, now: float) -> None:
        """Count the work, and learn the pace where one stream tells for long enough."""
        more = done - stream.prefilled
        if more <= 0:
            return
        self._ran()
        batch = max(1, min(self.prompt_concurrency, len(self.streams) - self._answering))
        self._work += more * batch
        stream.prefilled = done
        if stream.timed_since is not None:
            took = now - stream.timed_since
            if took < SAMPLE_S:
                return
            sample = min((done - stream.timed_from) * batch / took, FASTER * self.pace)
            self.pace = max(self._slowest, self.pace + LEARNING * (sample - self.pace))
        stream.timed_since, stream.timed_from = now, done

    def _ran(self) -> None:
        """Remember the shape of the step that ended, where it is certain who was in it."""
        if all(one.entered <= self._last_sign for one in self.streams if one.left):
            self._prefilled_shapes.add(self._prefill_shape())

    def allowed_s(self, now: float, entered: float = inf) -> float:
        """How long every stream may be silent together, the first of which entered then.

        Of the abandoned the engine takes those first that entered before; of those after it one
        batch at most counts, or clients that give up and ask again put the verdict off for ever.
        """
        self._abandoned = [
            one for one in self._abandoned if one.until > now or one.entered > self._reached
        ]
        before = [one for one in self._abandoned if one.entered <= entered]
        after = sorted(one.step for one in self._abandoned if one.entered > entered)
        batch, longest = self._step_shape()
        work = batch * longest + sum(one.step for one in before)
        work += sum(after[-self.prompt_concurrency :])
        allowed = self.floor_s + SAFETY * work / self.pace
        known = (
            all(one.known for one in self._abandoned)
            and self._answering.bit_length() <= self._decoded_width
            and (not batch or self._prefill_shape() in self._prefilled_shapes)
        )
        return allowed if known else allowed + self.compile_s

    def check(self, now: float) -> Hung | list[Starved]:
        """Hung, or the streams that starve while others move."""
        heard = [stream for stream in self.streams if stream.blocked_since is None]
        if not heard:
            self._last_sign = max(self._last_sign, now if self.streams else 0.0)
            return []
        allowed = self.allowed_s(now, min(stream.entered for stream in heard))
        silent = now - self._last_sign
        if silent > allowed:
            return Hung(silent, allowed)
        return [
            Starved(stream, now - stream.last_sign)
            for stream in heard
            if now - stream.last_sign
            > 2 * self.allowed_s(now, stream.entered)
            + SAFETY * (self._work - stream.work_at_sign) / self.pace
        ]

    def _step_shape(self) -> tuple[int, int]:
        """Prompts, and tokens of the longest, that the engine takes before it tells."""
        left = [stream.left for stream in self.streams if self._may_be_in_it(stream)]
        prefilling = sum(tokens > 0 for tokens in left)
        longest = max(left, default=0)
        return min(prefilling, self.prompt_concurrency), min(longest, self.prefill_step)

    def _may_be_in_it(self, stream: Stream) -> bool:
        """Whether the step that runs can have taken it.

        What was abandoned is taken first, without a sign: then it may be any time later.
        """
        return bool(self._abandoned) or stream.entered <= self._last_sign + self.floor_s

    def _prefill_shape(self) -> tuple[int, int]:
        """In powers of two: nearby shapes run the same kernels."""
        batch, longest = self._step_shape()
        return batch.bit_length(), longest.bit_length()
