"""A deploy that ends when the runtime of ``$FLAVOUR`` is built: no GPU is needed for that."""

import os
from dataclasses import replace
from pathlib import Path

from manifest.declaration import declare
from manifest.planned import sources
from tasks.base import base
from tasks.declared import declared
from tasks.preflight import preflight
from tasks.runtime import runtime
from templates import render

this_host = declared()
bound = preflight(this_host)
if bound:
    flavour = os.environ["FLAVOUR"]
    made_from = sources(Path.cwd(), render)
    declaration = declare(this_host, replace(bound, flavour=flavour), [], made_from)
    base(declaration=declaration)
    runtime(declaration=declaration)
