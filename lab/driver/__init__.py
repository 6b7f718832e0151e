"""A simulated NVIDIA driver for lab hosts: real formats, made-up GPUs, no device touched.

profile = install(host.root, "two_rtx_pro_6000")
host.root_run(ACTIVATE)          # a host that is up; another comes up with it
"""

from lab.driver.install import ACTIVATE, DEACTIVATE, install, remove
from lab.driver.packages import install_packages, offer_newer
from lab.driver.profile import Profile, names

__all__ = [
    "ACTIVATE",
    "DEACTIVATE",
    "Profile",
    "install",
    "install_packages",
    "names",
    "offer_newer",
    "remove",
]
