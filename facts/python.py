"""The interpreter that a runtime would be built with."""

from __future__ import annotations

from pyinfra.api import FactBase, QuoteString, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

DEFAULT = "python3"
# An interpreter that cannot speak TLS or C is of no use to us, however new: mlx needs ctypes'
# neighbours, downloads need ssl. `-I`: nothing of the environment, nothing of the directory.
ASK = (
    "import ctypes, platform, ssl, sys; "
    'print(platform.python_version(), sys.maxsize > 2**32, sys.executable, sep="\\n")'
)


class Python(FactBase[found.Python]):
    """Version and file of the interpreter ``path``; no version where there is none that works."""

    @override
    def command(self, path: str = DEFAULT) -> StringCommand:
        asked = QuoteString(path)
        return StringCommand(
            "echo", asked, "; command -v", asked, ">/dev/null &&", asked, "-I -c", QuoteString(ASK)
        )

    @override
    def process(self, output: list[str]) -> found.Python:
        if not output:
            raise FactProcessError("python: expected the interpreter's path, got nothing")
        path, *answer = output
        match answer:
            case [version, "True", executable]:
                return found.Python(path=path, version=version, executable=executable)
            case [version, "False", executable]:
                raise FactProcessError(f"python: {executable} {version} is not a 64-bit build")
            case []:
                return found.Python(path=path, version="", executable="")
            case _:
                raise FactProcessError(f"python: `{path}` does not work: {answer[-1]}")
