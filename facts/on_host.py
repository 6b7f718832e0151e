"""A host's own check: is it still what the last deploy made it? Run by ``mlx-drift.timer``.

The same probe and the same difference as everywhere, with no controller: what was applied stands in
for what is declared. Changes nothing but its metrics in ``RUNTIME_DIRECTORY``. Exit status: 0 as
applied, 2 drift, 1 could not tell.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from manifest import layout
from manifest.findings import WATCHED
from manifest.judgement import EXIT_STATUS, Judgement, judge
from manifest.manifest import read
from manifest.metrics import Checked, metrics
from manifest.tolerance import read as read_tolerance

HERE = Path(__file__).parent
SECONDS = 600  # to read files again in, at idle priority


def check() -> Judgement | None:
    """Look at this host and judge it; None while a deploy is under way."""
    trees = runpy.run_path(str(HERE / "tree_program.py"))
    probe = runpy.run_path(str(HERE / "probe_program.py"), init_globals=trees)["Probe"]
    question = {"resources": [one.to_json() for one in WATCHED], "stamp": True, "seconds": SECONDS}
    answer = probe(question).answer()
    if answer["deploying"] is not None:
        return None
    tolerated = json.loads(Path(layout.TOLERATED).read_text(encoding="utf-8"))
    return judge(
        answer["stamp"],
        read(answer["resources"]),
        declare=lambda stamp: stamp.everything(),
        problems=answer["problems"],
        tolerances=[read_tolerance(one) for one in tolerated],
        today=datetime.now(timezone.utc).date(),  # noqa: UP017 -- hosts may have Python 3.10
    )


def main() -> int:
    """Check, tell the journal, leave the metrics."""
    judgement = check()
    if judgement is None:
        print("a deploy is under way: what it makes is not to be judged yet")
        return 0
    print(f"{judgement.verdict}: {judgement.checked} resources looked at")
    for line in (*judgement.troubles, *judgement.findings):
        print(line)
    folder = Path(os.environ.get("RUNTIME_DIRECTORY", "."))
    new = folder / "metrics.prom.new"
    new.write_text(metrics([Checked(judgement, time.time())]), encoding="utf-8")
    new.replace(folder / "metrics.prom")
    return EXIT_STATUS[judgement.verdict]


if __name__ == "__main__":
    sys.exit(main())
