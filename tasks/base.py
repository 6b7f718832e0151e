"""User, directories, packages and holds: what every host of ours has."""

from __future__ import annotations

from pyinfra.api import deploy

from manifest.declaration import Declaration
from manifest.resources import Entry, Hold, Package, User
from operations import files, packages, users


@deploy("Base")
def base(declaration: Declaration) -> None:
    """Converge what stands under everything else."""
    part = declaration.base
    packages.installed(name="Install packages", packages=part.of(Package))
    for user in part.of(User):
        users.present(name=f"Make the user {user.id}", user=user)
    files.converged(
        name="Make directories and files", resources=part.of(Entry), contents=part.contents
    )
    if holds := part.of(Hold):
        packages.held(name="Hold NVIDIA's driver packages", holds=holds)
