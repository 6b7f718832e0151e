"""Whatever a host prints, reading it raises ``FactProcessError`` or nothing.

Any other exception ends pyinfra's run for every host, not for the one that printed it.
"""

import contextlib
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError

from facts.bare_host import FACTS, BareHost
from facts.package_manager import PackageManager
from facts.present import Present
from planner import verdict
from planner.declared import Host
from tests.preflight.cases import ALL

LINES = st.lists(st.text(st.characters(codec="ascii"), max_size=80), max_size=8)
ODD = ["", "[N/A]", "N/A", "-1", "0", "9" * 30, "1.", ".", "\N{SUPERSCRIPT TWO}", "\x00", "a b"]
DECIDES = re.compile(r"GPU-|^ \d|^ module|^ nvrm|status|ID=|glibc|^ 0000:|^ systemd|Mem[TA]")
REAL = [case.lines() for case in ALL.values()]


@st.composite
def damaged(draw: st.DrawFn) -> list[str]:
    """Draw a real host's answer with lines lost, repeated, cut short or replaced."""
    lines = list(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(1, 8))):
        # Most lines are of /proc/meminfo and tables; the few that decide are to be hit as often.
        few = [i for i, line in enumerate(lines) if DECIDES.search(line)]
        at = draw(st.sampled_from(few or [0]) | st.integers(0, len(lines) - 1))
        cut = draw(st.integers(0, len(lines[at])))
        words = re.split(r"(, | )", lines[at])
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(ODD))
        lines[at : at + 1] = draw(
            st.sampled_from([[], [lines[at]] * 2, [lines[at][:cut]], ["".join(words)]])
        )
        lines = lines or [""]
    return lines


@given(LINES)
def test_a_fact_raises_nothing_else(lines: list[str]):
    """Each by itself, on anything."""
    for fact in (*FACTS.values(), PackageManager(), Present()):
        with contextlib.suppress(FactProcessError):
            fact.process(lines)


@settings(max_examples=200, deadline=None)
@given(damaged())
def test_a_damaged_answer_is_judged_all_the_same(lines: list[str]):
    """What cannot be read is a reason; what can be is judged, printed and kept as JSON."""
    found = BareHost().process(lines)
    refusals = verdict.judge(found, Host(name="gpu-1"))
    assert all(str(refusal) for refusal in refusals)
    json.dumps(found.to_json())
    if not refusals:
        json.dumps(verdict.bind(found, Host(name="gpu-1")).to_json())
