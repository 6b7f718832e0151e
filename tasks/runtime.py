"""The environments that models are served from: uv, the guard's, the engine's."""

from __future__ import annotations

from pyinfra.api import deploy

from manifest.declaration import Declaration
from operations import runtimes


@deploy("Runtime")
def runtime(declaration: Declaration) -> None:
    """Build what is missing or damaged; what is in use is never altered in place."""
    uv, flavour = declaration.uv, declaration.bound.flavour
    site = dict(declaration.host.site.environment)
    if declaration.host.site.uv_cache:
        site |= {"UV_CACHE_DIR": declaration.host.site.uv_cache, "UV_LINK_MODE": "copy"}
    runtimes.built(name="Build uv", environment=uv, uv=None, site=site)
    runtimes.built(name="Build the guard", environment=declaration.guard, uv=uv.path, site=site)
    runtimes.built(
        name=f"Build the {flavour} runtime", environment=declaration.engine, uv=uv.path, site=site
    )
