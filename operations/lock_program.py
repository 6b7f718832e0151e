"""Hold the host's deploy lock for as long as the controller is heard.

Runs on the host over a connection of its own. The kernel drops the lock with this process; the
process ends with its standard input, and where the controller's machine vanished without a word,
after SILENCE seconds of hearing nothing. What the controller had begun on the host does not end
with it by itself: a build would go on, in the midst of that of the next run. So it is ended first.
"""

import contextlib
import fcntl
import os
import re
import select
import signal
import sys
import time

SILENCE = 60
PATIENCE = 8  # seconds that a newcomer gives a run that died to end what it had begun
GRACE = 3  # seconds between SIGTERM and SIGKILL


def read(path):
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def parent(pid):
    """Give a process's parent; 0 where it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def left():
    """List what else runs in this login session, but for what this process itself runs under.

    Empty where logind keeps no sessions: in any other control group there may be strangers.
    """
    session = read("/proc/self/cgroup")
    if not re.search(r"/session-[^/\n]+\.scope$", session, re.MULTILINE):
        return []
    above, pid = set(), os.getpid()
    while pid > 0:
        above.add(pid)
        pid = parent(pid)
    running = {int(name) for name in os.listdir("/proc") if name.isdigit()} - above
    return [pid for pid in running if read(f"/proc/{pid}/cgroup") == session]


def end_what_is_left():
    began = time.monotonic()
    while processes := left():
        late = time.monotonic() - began > GRACE
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.1)


def take(lock):
    """Take the lock, or exit and say who has it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                print("refused", os.pread(lock, 1000, 0).decode("utf-8", "replace").strip())
                sys.exit(1)
            time.sleep(0.1)


path, holder = sys.argv[1:]
lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
take(lock)
os.ftruncate(lock, 0)
os.write(lock, holder.encode())
print("held", flush=True)
while select.select([0], [], [], SILENCE)[0] and os.read(0, 100):
    pass
# With its connection gone this process would be ended too, by what it prints or by its session.
signal.signal(signal.SIGHUP, signal.SIG_IGN)
end_what_is_left()
os.ftruncate(lock, 0)
