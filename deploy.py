"""Take bare hosts to ones that serve language models, and keep them so."""

from tasks.base import base
from tasks.checking import checking
from tasks.declared import declared
from tasks.plan import plan
from tasks.preflight import has_room, preflight
from tasks.runtime import runtime
from tasks.serving import serving
from tasks.stamp import begin, finish
from tasks.weights import weights

this_host = declared()
bound = preflight(this_host)
declaration = plan(this_host, bound) if bound else None
if declaration and has_room(declaration):
    begin(declaration=declaration)
    base(declaration=declaration)
    runtime(declaration=declaration)
    weights(declaration=declaration)
    checking(declaration=declaration)
    serving(declaration=declaration)
    finish(declaration=declaration)
