"""``python -m guard.gpu_ready UUID…``: make NVIDIA's device nodes, wait until the driver answers.

Run as root by mlx-gpu-ready.service before any model: under NoNewPrivileges the setuid
nvidia-modprobe cannot make ``/dev/nvidia-uvm``.  Exit 0 when every GPU named is there (with none
named: at least one), 1 with what is missing, and what to do, when it does not come in time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PATIENCE_S = 75.0  # below the unit's TimeoutStartSec, so that the message is ours
COMMAND_S = 15.0
NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")


def run(*command: str) -> tuple[int, str]:
    """Exit code and output; a command that hangs is killed with all it started.

    Into a file and not a pipe: nvidia-smi has been seen to leave children that hold it open.
    """
    if shutil.which(command[0]) is None:
        return 127, f"{command[0]} is not installed"
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, process_group=0
        )
        try:
            code = child.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return 124, f"{command[0]} did not answer within {COMMAND_S:.0f} s"
        output.seek(0)
        return code, output.read().decode(errors="replace").strip()


def missing(uuids: Sequence[str]) -> str | None:
    """What is not there yet, in words; makes the nodes on the way."""
    run("nvidia-modprobe", "-u", "-c=0")  # where it is not installed nvidia-smi makes most of them
    code, listed = run("nvidia-smi", "-L")
    if code != 0:
        return f"the driver does not answer (nvidia-smi -L: {listed.splitlines()[-1:] or code})"
    if absent := [uuid for uuid in uuids if uuid not in listed]:
        return f"GPUs that the driver does not list: {', '.join(absent)}; it lists: {listed}"
    if "GPU " not in listed:
        return "the driver lists no GPU"
    if nodes := [node for node in NODES if not Path(node).exists()]:
        return (
            f"device nodes: {', '.join(nodes)} (`modprobe nvidia-uvm`, or install nvidia-modprobe)"
        )
    return None


def main(uuids: Sequence[str]) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while (what := missing(uuids)) is not None:
        if time.monotonic() + COMMAND_S > deadline:
            print(f"not ready after {PATIENCE_S:.0f} s: {what}", file=sys.stderr)
            return 1
        time.sleep(1)
    print(f"ready: {', '.join(uuids) or 'every GPU'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
