"""The hub's answers: repositories, trees, files, and refusals with the codes clients read."""

import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from lab.hub.content import send
from lab.hub.faults import Fault, Faults, Place
from lab.hub.store import Commit, Entry, Repository, Store

_DATE = "2023-11-14T22:13:20.000Z"
_TOO_MANY = 429


class RefusedError(HTTPException):
    """A refusal as the public hub words it: the code is what clients tell cases apart by."""

    def __init__(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        """Put code and message where `hf_raise_for_status` looks for them."""
        headers = {"X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        if commit:
            headers["X-Repo-Commit"] = commit
        super().__init__(status, message, headers)


@dataclass(kw_only=True)
class Protocol:
    """A hub's two web servers: the hub itself, and where LFS files are stored."""

    store: Store
    faults: Faults
    page_size: int
    storage: str = ""
    """Where the storage answers: `http://address:port`. Another origin, as on the public hub."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Every request: method, path, range, whether a token came with it, status."""
    _signature: str = field(default_factory=lambda: secrets.token_hex(16))

    def hub(self) -> Starlette:
        """Return the server of repositories, trees and small files."""
        model = "/api/models/{org}/{name}"
        return self._application(
            Route("/api/whoami-v2", self._whoami),
            Route(model, self._info),
            Route(model + "/refs", self._refs),
            Route(model + "/revision/{revision}", self._info),
            Route(model + "/tree/{revision}", self._tree),
            Route(model + "/tree/{revision}/{folder:path}", self._tree),
            Route(model + "/paths-info/{revision}", self._paths, methods=["POST"]),
            Route("/{org}/{name}/resolve/{revision}/{path:path}", self._resolve),
        )

    def storage_server(self) -> Starlette:
        """Return the server of LFS files: it takes signed addresses, no tokens."""
        return self._application(
            Route("/{org}/{name}/{commit}/{signature}/{path:path}", self._stored)
        )

    def _application(self, *routes: Route) -> Starlette:
        application = Starlette(routes=list(routes), exception_handlers={HTTPException: _refuse})
        application.state.asked = self.asked
        return application

    # The hub

    async def _whoami(self, request: Request) -> Response:
        token = _token(request)
        if token not in self.store.tokens:
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        return JSONResponse({"type": "user", "name": "lab", "auth": {"type": "access_token"}})

    async def _info(self, request: Request) -> Response:
        repository, commit = self._found(request, "api")
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
        if request.query_params.get("blobs"):
            siblings = [_sibling(entry) for entry in commit.files.values()]
        return JSONResponse(
            {
                "_id": repository.refs["main"][:24],
                "id": repository.name,
                "modelId": repository.name,
                "author": repository.name.partition("/")[0],
                "sha": commit.sha,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "disabled": False,
                "lastModified": _DATE,
                "createdAt": _DATE,
                "downloads": 0,
                "likes": 0,
                "tags": ["mlx", "safetensors"],
                "library_name": "mlx",
                "siblings": siblings,
            }
        )

    async def _refs(self, request: Request) -> Response:
        repository, _ = self._found(request, "api")
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repository.refs.items()
        ]
        return JSONResponse({"branches": branches, "tags": [], "converts": []})

    async def _tree(self, request: Request) -> Response:
        _, commit = self._found(request, "api")
        folder = request.path_params.get("folder", "").rstrip("/")
        if folder not in commit.folders:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist", commit.sha)
        recursive = request.query_params.get("recursive", "").lower() in {"true", "1"}
        listed = [
            entry
            for entry in _listing(commit)
            if _within(entry["path"], folder, recursive=recursive)
        ]
        begin = int(request.query_params.get("cursor", "0"))
        limit = int(request.query_params.get("limit", self.page_size))
        headers = {}
        if begin + limit < len(listed):
            following = request.url.include_query_params(cursor=begin + limit)
            headers["Link"] = f'<{following}>; rel="next"'
        return JSONResponse(listed[begin : begin + limit], headers=headers)

    async def _paths(self, request: Request) -> Response:
        _, commit = self._found(request, "api")
        paths = parse_qs((await request.body()).decode()).get("paths", [])
        return JSONResponse([entry for entry in _listing(commit) if entry["path"] in paths])

    async def _resolve(self, request: Request) -> Response:
        repository, commit = self._found(request, "resolve")
        if repository.gated and not self.store.may_read(_token(request), repository):
            status = 403 if _token(request) else 401
            message = f"Access to model {repository.name} is restricted"
            raise RefusedError(status, "GatedRepo", message, commit.sha)
        entry = _entry(commit, request)
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{entry.etag}"'}
        if entry.sha256:
            # Absolute, and on another origin: clients must not follow it with their token.
            place = f"{repository.name}/{commit.sha}/{self._signature}/{quote(entry.path)}"
            headers |= {
                "X-Linked-Size": str(entry.size),
                "X-Linked-Etag": f'"{entry.sha256}"',
                "Accept-Ranges": "bytes",
            }
            return RedirectResponse(f"{self.storage}/{place}", status_code=302, headers=headers)
        return self._content(repository, entry, request, headers)

    # The storage

    async def _stored(self, request: Request) -> Response:
        if _token(request):
            raise RefusedError(400, "", "only one way to authorize a request is allowed")
        if request.path_params["signature"] != self._signature:
            raise RefusedError(403, "", "the signature is not valid")
        repository = self.store.repositories[_name(request)]
        entry = _entry(repository.commits[request.path_params["commit"]], request)
        return self._content(repository, entry, request, {})

    # Both

    def _content(
        self, repository: Repository, entry: Entry, request: Request, headers: dict[str, str]
    ) -> Response:
        if request.method == "HEAD":
            headers |= {"Accept-Ranges": "bytes", "Content-Length": str(entry.size)}
            return Response(headers=headers)
        fault = self._strike("content", f"{repository.name}/{entry.path}")
        return send(entry, request.headers.get("Range"), fault, headers)

    def _found(self, request: Request, place: Place) -> tuple[Repository, Commit]:
        """Find the repository and the commit that are asked for, or refuse."""
        path = request.path_params.get("path")
        self._strike(place, _name(request) + (f"/{path}" if path else ""))
        token = _token(request)
        if token is not None and token not in self.store.tokens:
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        repository = self.store.repositories.get(_name(request))
        if repository is None or (
            repository.private and not self.store.may_read(token, repository)
        ):
            # Without a token the public hub does not tell the two apart from each other.
            status = 404 if token else 401
            raise RefusedError(status, "RepoNotFound", "Repository not found")
        revision = request.path_params.get("revision", "main")
        commit = repository.commit(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _strike(self, place: Place, path: str) -> Fault | None:
        fault = self.faults.strike(place, path)
        if fault is None or fault.kind != "status":
            return fault
        headers = {}
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
            if fault.status == _TOO_MANY:
                headers["RateLimit"] = f'"api";r=0;t={fault.retry_after_s}'
        raise HTTPException(fault.status, "a fault of the lab's", headers)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # starlette's handlers are typed wider
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _name(request: Request) -> str:
    return f"{request.path_params['org']}/{request.path_params['name']}"


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def _entry(commit: Commit, request: Request) -> Entry:
    entry = commit.files.get(request.path_params["path"])
    if entry is None:
        raise RefusedError(404, "EntryNotFound", "Entry not found", commit.sha)
    return entry


def _within(path: str, folder: str, *, recursive: bool) -> bool:
    if folder and not path.startswith(f"{folder}/"):
        return False
    return recursive or "/" not in path[len(folder) + bool(folder) :]


def _listing(commit: Commit) -> list[dict[str, Any]]:
    folders = [
        {"type": "directory", "oid": oid, "size": 0, "path": path}
        for path, oid in commit.folders.items()
        if path
    ]
    files = []
    for entry in commit.files.values():
        told: dict[str, Any] = {
            "type": "file",
            "oid": entry.oid,
            "size": entry.size,
            "path": entry.path,
        }
        if entry.sha256:
            told["lfs"] = {
                "oid": entry.sha256,
                "size": entry.size,
                "pointerSize": entry.pointer_size,
            }
        files.append(told)
    return sorted([*folders, *files], key=lambda told: str(told["path"]))


def _sibling(entry: Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.sha256:
        told["lfs"] = {
            "sha256": entry.sha256,
            "size": entry.size,
            "pointerSize": entry.pointer_size,
        }
    return told
