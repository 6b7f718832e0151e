"""A lab of real systemd hosts, and a model hub, on this machine; see `lab/README.md`.

It imports nothing of the rest of the project: what the project does to a host is judged here by
something that shares no code with it.
"""

from lab.host import Host
from lab.lab import Lab
from lab.prerequisites import install_prerequisites, missing

__all__ = ["Host", "Lab", "install_prerequisites", "missing"]
