"""Several commands in one round trip, none of which can hold up the rest.

pyinfra's own ``_timeout`` abandons the wait on this side only; the command lives on. Here each
command runs on the host in a session of its own with its output in a file, so one that ignores
signals, hangs in the kernel or leaves a child behind that holds its output can be walked away from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyinfra.api import QuoteString, StringCommand

# `setsid`: so that the whole family can be killed. /dev/shm: preflight changes no disk.
# `tr`: a byte that is not UTF-8 would cut pyinfra's reading short, and be taken for success.
START = """\
LC_ALL=C; export LC_ALL; unset LANGUAGE
d=$(mktemp -d -p /dev/shm 2>/dev/null) || d=$(mktemp -d) || exit 1
start() {
  (
    setsid sh -c "echo \\$\\$ >'$d/$1.pid'; $2" >"$d/$1.out" 2>&1 </dev/null
    echo $? >"$d/$1.rc.new"; mv "$d/$1.rc.new" "$d/$1.rc"
  ) >/dev/null 2>&1 </dev/null &
}
"""
FINISH = """\
n=0
while [ $n -lt {ticks} ]; do
  done=1; for s in {names}; do [ -e "$d/$s.rc" ] || done=; done
  [ -n "$done" ] && break
  sleep 0.05; n=$((n+1))
done
for s in {names}; do
  if [ -e "$d/$s.rc" ]; then echo "== $s $(cat "$d/$s.rc")"
  else echo "== $s hung"; kill -KILL -- -"$(cat "$d/$s.pid")" 2>/dev/null
  fi
  tr -cd '\\11\\12\\40-\\176' <"$d/$s.out" | sed 's/^/ /'
done
rm -rf "$d"
"""
TICKS_PER_SECOND = 20


@dataclass(frozen=True, slots=True)
class Section:
    """What one command of a bundle gave: its exit status, ``None`` if it hung, and its lines."""

    status: int | None
    lines: list[str]


def bundle(commands: Mapping[str, StringCommand], *, seconds: int) -> StringCommand:
    """Make one command of all of them, run side by side and given up after ``seconds``.

    Names are ``[a-z_]``; the answer is for ``unbundle``.
    """
    starts = [
        StringCommand("start", name, QuoteString(command)) for name, command in commands.items()
    ]
    finish = FINISH.format(ticks=seconds * TICKS_PER_SECOND, names=" ".join(commands))
    return StringCommand(
        START, *[part for s in starts for part in (s, "\n")], finish, _separator=""
    )


def unbundle(output: Iterable[str]) -> dict[str, Section]:
    """Take apart what a bundle printed, by name."""
    sections: dict[str, Section] = {}
    lines: list[str] = []
    for line in output:
        if begins := re.fullmatch(r"== ([a-z_]+) (hung|\d+)", line):
            lines, status = [], begins[2]
            sections[begins[1]] = Section(None if status == "hung" else int(status), lines)
        else:
            lines.append(line[1:])
    return sections
