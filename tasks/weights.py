"""The models' files, each as its hub says."""

from __future__ import annotations

from pyinfra.api import deploy
from pyinfra.api.hiddenvalue import HiddenValue

from manifest.declaration import Declaration
from operations import weights as operations
from tasks.declared import token


@deploy("Weights")
def weights(declaration: Declaration) -> None:
    """Fetch what is placed on this host, and nothing else."""
    hub = declaration.host.hub
    for snapshot in declaration.snapshots:
        operations.fetched(
            name=f"Fetch {snapshot.repo or snapshot.path}",
            snapshot=snapshot,
            runtime=declaration.engine.path,
            endpoint=hub.endpoint,
            token=HiddenValue(token(hub.token)),  # type: ignore[no-untyped-call]
            site=declaration.host.site.environment,
        )
