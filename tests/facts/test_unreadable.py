"""A fact that cannot read its input says what it expected and shows the line it got."""

import pytest
from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.addresses import Addresses
from facts.distribution import Distribution
from facts.kernel import Kernel
from facts.memory import Memory
from facts.mounts import Mounts
from facts.nvidia_module import NvidiaModule
from facts.nvidia_smi import Gpus, Processes
from facts.pci import NvidiaDevices
from facts.python import Python
from facts.room import Room
from facts.service_manager import ServiceManager


@pytest.mark.parametrize(
    ("fact", "lines", "shown"),
    [
        (Addresses(), ["awk: not found"], "awk: not found"),
        (Distribution(), ["cat: /etc/os-release: No such file or directory"], "No such file"),
        (Distribution(), ["NAME=Debian"], "ID="),
        (Kernel(), ["Linux"], "Linux"),
        (Memory(), ["MemTotal: 12 kB"], "MemAvailable"),
        (Mounts(), ["/dev/sda1 /"], "/dev/sda1 /"),
        (NvidiaDevices(), ["0000:01:00.0"], "0000:01:00.0"),
        (NvidiaModule(), [], "module"),
        (Gpus(), ["0, GPU-1"], "0, GPU-1"),
        (Gpus(), ["what is this", "status 0"], "what is this"),
        (Gpus(), [", ".join("abcdefghijkl"), "status 0"], "a, b, c"),
        (Processes(), ["GPU-1, no number, 1, x"], "no number"),
        (Python(), [], "nothing"),
        (Python(), ["python3", "Traceback", "ModuleNotFoundError: ssl"], "ssl"),
        (Python(), ["python3", "3.11.2", "False", "/usr/bin/python3"], "64-bit"),
        (Room(), ["/opt", "df: /opt: Permission denied"], "Permission denied"),
        (ServiceManager(), [], "nothing"),
    ],
)
def test_an_unreadable_answer_is_shown(fact: FactBase[object], lines: list[str], shown: str):
    """The message quotes what came, so that it can be judged from far."""
    with pytest.raises(FactProcessError, match=shown):
        fact.process(lines)
