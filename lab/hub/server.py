"""The hub's process: `python -m lab.hub.server DIRECTORY`, with what to serve in the directory."""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.hub.content import CutConnectionError
from lab.hub.faults import Fault, Faults
from lab.hub.protocol import Protocol
from lab.hub.store import Store
from lab.machine import LabError, read_json, write_json
from lab.processes import Process


class Witness:
    """Writes down every request and how it was answered."""

    def __init__(self, application: ASGIApp, asked: list[dict[str, Any]], server: str) -> None:
        """Stand before an application."""
        self._application = application
        self._asked = asked
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        record: dict[str, Any] = {
            "server": self._server,
            "method": scope["method"],
            "path": scope["path"],
            "range": headers.get(b"range", b"").decode() or None,
            "with_token": b"authorization" in headers,
            "client": scope["client"][0],
            "status": None,
            "bytes": 0,
        }
        self._asked.append(record)

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
            else:
                record["bytes"] += len(message.get("body", b""))
            await send(message)

        await self._application(scope, receive, note)


class Control:
    """What tests ask of the hub; on loopback only, so that no host can."""

    def __init__(self, protocol: Protocol, store_at: Path) -> None:
        """Control one hub."""
        self._protocol = protocol
        self._store_at = store_at

    def application(self) -> Starlette:
        """Return its server."""
        return Starlette(
            routes=[
                Route("/repositories", self._list, methods=["GET"]),
                Route("/repositories", self._add, methods=["POST"]),
                Route("/tokens", self._admit, methods=["POST"]),
                Route("/faults", self._afflict, methods=["PUT"]),
                Route("/asked", self._tell, methods=["GET"]),
                Route("/asked", self._forget, methods=["DELETE"]),
            ]
        )

    async def _list(self, _: Request) -> Response:
        repositories = self._protocol.store.repositories
        return JSONResponse({name: one.refs["main"] for name, one in repositories.items()})

    async def _add(self, request: Request) -> Response:
        wanted = await request.json()
        wanted["directory"] = Path(wanted["directory"])
        try:
            commit = await run_in_threadpool(self._protocol.store.add, **wanted)
        except (LabError, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        self._protocol.store.save(self._store_at)
        return JSONResponse({"commit": commit})

    async def _admit(self, request: Request) -> Response:
        self._protocol.store.tokens |= await request.json()
        self._protocol.store.save(self._store_at)
        return Response(status_code=204)

    async def _afflict(self, request: Request) -> Response:
        self._protocol.faults.all = [Fault.of_json(one) for one in await request.json()]
        return Response(status_code=204)

    async def _tell(self, _: Request) -> Response:
        return JSONResponse(self._protocol.asked)

    async def _forget(self, _: Request) -> Response:
        self._protocol.asked.clear()
        return Response(status_code=204)


async def serve(directory: Path) -> None:
    """Serve until the process is told to stop, or its owner is gone."""
    settings = read_json(directory / "settings.json")
    store_at = directory / "store.json"
    store = Store.load(store_at) if store_at.exists() else Store()
    protocol = Protocol(store=store, faults=Faults(), page_size=settings["page_size"])
    address = settings["address"]
    ports: dict[str, int] = settings.get("ports", {})
    sockets = {
        "hub": _listen(address, ports.get("hub", 0)),
        "storage": _listen(address, ports.get("storage", 0)),
        "control": _listen("127.0.0.1", ports.get("control", 0)),
    }
    ports = {name: one.getsockname()[1] for name, one in sockets.items()}
    protocol.storage = f"http://{address}:{ports['storage']}"
    applications: dict[str, ASGIApp] = {
        "hub": Witness(protocol.hub(), protocol.asked, "hub"),
        "storage": Witness(protocol.storage_server(), protocol.asked, "storage"),
        "control": Control(protocol, store_at).application(),
    }
    servers = {name: _server(application) for name, application in applications.items()}
    running = [
        asyncio.create_task(server.serve(sockets=[sockets[name]]))
        for name, server in servers.items()
    ]
    write_json(directory / "settings.json", {**settings, "ports": ports})
    write_json(directory / "ready.json", ports)
    owner = Process.of_json(settings["owner"]) if settings["owner"] else None
    while not any(task.done() for task in running):
        if owner is not None and not owner.alive():
            break
        await asyncio.wait(running, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    for server in servers.values():
        server.should_exit = True
        server.force_exit = True
    await asyncio.gather(*running, return_exceptions=True)


def _listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), backlog=256)


def _server(application: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        _cutting(application), log_level="critical", lifespan="off", timeout_keep_alive=30
    )
    return uvicorn.Server(config)


def _cutting(application: ASGIApp) -> ASGIApp:
    """Leave an answer that is to be cut unfinished: the server then closes the connection."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(CutConnectionError):
            await application(scope, receive, send)

    return call


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
