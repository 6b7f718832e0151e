"""End what listens on TCP ports in the name of a user who is to listen on none of them.

Runs on the host with ``python3``: USER FABRIC PORT …, where FABRIC is an address at which it may
listen, or empty. The user is a system user of ours, with no other business.
"""

import os
import pwd
import signal
import socket
import sys


def listening(uid, fabric, ports):
    """Give the inodes of the user's sockets that listen on these ports, but at ``fabric``."""
    spared = socket.inet_aton(fabric)[::-1].hex().upper() if fabric else ""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table, encoding="ascii") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                address, _, port = fields[1].rpartition(":")
                ours = fields[3] == "0A" and int(fields[7]) == uid and address != spared
                if ours and int(port, 16) in ports:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def holders(inodes):
    """Give the processes that have one of these sockets open."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            open_files = os.listdir(f"/proc/{pid}/fd")
            targets = {os.readlink(f"/proc/{pid}/fd/{number}") for number in open_files}
        except OSError:
            continue  # it ended meanwhile, or closed something
        if targets & inodes:
            yield int(pid)


user, fabric, *numbers = sys.argv[1:]
uid = pwd.getpwnam(user).pw_uid
for process in holders(listening(uid, fabric, {int(one) for one in numbers})):
    os.kill(process, signal.SIGKILL)
