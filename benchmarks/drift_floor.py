"""What no drift check can do without: start, connect, and (with `ask`) one round trip.

    python benchmarks/drift_floor.py INVENTORY connect|ask [HOST …]

The same imports, connections and command as drift.py's, and a program that looks at nothing.
"""

import base64
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import drift
from facts import live

inventory, stage, *names = sys.argv[1:]
# Taken away: all but the connection, or all but that and a program that looks at nothing.
if stage == "connect":
    live._run = lambda *_: (0, b"", "")  # noqa: SLF001
else:
    nothing = base64.b64encode(zlib.compress(b"print('mlx-hosts-answer')")).decode()
    live._program = lambda *_: nothing  # noqa: SLF001
live._read = lambda *_: None  # noqa: SLF001
drift.judged = lambda declared, *_, **__: drift.unseen(declared.name, "")
fleet = drift.check(inventory, names)
assert all(host.judgement.troubles == ("",) for host in fleet.hosts), fleet
