"""The lab's command line: `python -m lab up 3`."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from lab.bases import DEFAULT_RELEASE, RELEASES, base
from lab.demo import demo as tell
from lab.hub import Hub
from lab.lab import Lab, sweep
from lab.machine import LabError
from lab.models import MODELS
from lab.prerequisites import install_prerequisites


@click.group()
def main() -> None:
    """Throwaway systemd hosts and a model hub on this machine."""


def _state() -> Path:
    return Path(os.environ.get("MLX_HOSTS_LAB_STATE", ".lab"))


def _lab() -> Lab:
    lab = Lab.found(_state())
    if lab is None:
        raise LabError("there is no lab here: make one with `python -m lab up`")
    return lab


@main.command()
@click.argument("count", type=click.IntRange(1, 100), default=1)
@click.option("--release", type=click.Choice(list(RELEASES)), default=DEFAULT_RELEASE)
@click.option("--hub/--no-hub", default=True, help="serve the real model from a hub of the lab's")
def up(count: int, release: str, *, hub: bool) -> None:
    """Have COUNT hosts up: lab-1, lab-2 and so on; those that are there stay as they are."""
    base(release)
    lab = Lab.at(_state())
    lab.open()
    if hub:
        lab.serve_models({name: make() for name, make in MODELS.items()})
    names = [f"lab-{number}" for number in range(1, count + 1)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda name: _have_up(lab, name, release), names))
    click.echo(f"hosts and hub as data: {lab.inventory}", err=True)


def _have_up(lab: Lab, name: str, release: str) -> None:
    began = time.monotonic()
    if name in {host.name for host in lab.hosts()}:
        host = lab.host(name)
        host.start()
    else:
        host = lab.boot(name, release=release, address=_address(lab, name))
    seconds = time.monotonic() - began
    click.echo(f"{host.name}  {host.address}  {RELEASES[host.release]}  up ({seconds:.1f} s)")


def _address(lab: Lab, name: str) -> str | None:
    """Give lab-1 the first address, lab-2 the second, while these are free."""
    wanted = lab.network.addresses[int(name.removeprefix("lab-")) - 1]
    return wanted if wanted not in {host.address for host in lab.hosts()} else None


@main.command()
@click.argument("name")
@click.argument("command", nargs=-1)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to host NAME, or run COMMAND there."""
    lab = _lab()
    lab.host(name)
    done = subprocess.run(["ssh", "-F", str(lab.ssh_config), name, *command], check=False)
    sys.exit(done.returncode)


@main.command()
def status() -> None:
    """Show the hosts and the hub."""
    lab = _lab()
    for host in lab.hosts():
        state = "up" if host.running() else "down"
        click.echo(f"{host.name}  {host.address}  {RELEASES[host.release]}  {state}")
    hub = lab.hub_data()
    click.echo(f"hub  {hub['endpoint']}" if hub else "hub  none")


@main.command()
def down() -> None:
    """Remove the lab, and what crashed labs left behind."""
    for name in sweep():
        click.echo(f"removed what the crashed lab {name} left behind", err=True)
    lab = Lab.found(_state())
    if lab is not None:
        lab.down()


@main.command()
def prerequisites() -> None:
    """Install the Debian packages that the lab needs."""
    install_prerequisites()


@main.command()
@click.option("--keep", is_flag=True, help="leave the host up")
def demo(*, keep: bool) -> None:
    """Provision one bare host, and ask the model that it then serves."""
    tell(_state() / "demo", keep=keep)


@main.command("hub")
def serve_hub() -> None:
    """Serve the models on loopback until interrupted; needs no root and no hosts."""
    with tempfile.TemporaryDirectory() as directory, Hub(Path(directory)) as hub:
        for name, make in MODELS.items():
            click.echo(f"{name}  {hub.add_repo(name, make())}")
        click.echo(f"HF_ENDPOINT={hub.endpoint}")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
