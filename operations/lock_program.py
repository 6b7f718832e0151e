"""Hold the host's deploy lock for as long as the controller is heard.

Runs on the host over a connection of its own. The kernel drops the lock with this process; the
process ends with its standard input, and where the controller's machine vanished without a word,
after SILENCE seconds of hearing nothing.
"""

import fcntl
import os
import select
import sys

SILENCE = 60

path, holder = sys.argv[1:]
lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused", os.read(lock, 1000).decode("utf-8", "replace").strip(), flush=True)
    sys.exit(1)
os.ftruncate(lock, 0)
os.write(lock, holder.encode())
print("held", flush=True)
while select.select([0], [], [], SILENCE)[0] and os.read(0, 100):
    pass
os.ftruncate(lock, 0)
