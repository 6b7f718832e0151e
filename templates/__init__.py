"""Units and configuration files; whoever renders one passes every name in."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - units and shell-free configuration, never HTML
)


def render(template: str, **values: object) -> str:
    """Render ``templates/TEMPLATE.j2``; raises ``jinja2.UndefinedError`` for a name not passed."""
    return _ENVIRONMENT.get_template(f"{template}.j2").render(**values)
