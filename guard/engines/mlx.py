"""mlx_lm.server (mlx-lm 0.32): its commands, its environment, its requests and its answers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

from guard import upstream
from guard.ask import Ask, Delta, EngineBroke, Event, Finish, Progress, Scored, Usage
from guard.config import Config, Group

HERE = Path(__file__).parent
SIOCGIFADDR = 0x8915  # linux/sockios.h
PENALTY_TOKENS = 256  # the engine's own 20 forget a sentence ago
OPENING_AT_ONCE = 4  # its threads start one by one; 64 at once took 1.85 s (facts of the engine)


def command(config: Config, path: str) -> list[str]:
    """``-I`` keeps the launcher's folder and every PYTHON variable out of the engine."""
    given = {
        "--guard-memory-limit": config.memory_limit_bytes,
        "--guard-cache-limit": config.cache_limit_bytes,
        "--model": config.model,
        "--guard-socket": path,
        "--log-level": "WARNING",
        "--prompt-concurrency": config.prompt_concurrency,
        "--decode-concurrency": config.decode_concurrency,
        "--prefill-step-size": config.prefill_step,
        "--prompt-cache-size": config.prompt_cache_entries,
        "--prompt-cache-bytes": config.prompt_cache_bytes,
        "--guard-backend": config.group and config.group.backend,
        "--guard-world": config.group and config.group.world,
    }
    return [
        *(f"{config.runtime}/bin/python", "-I", str(HERE / "mlx_launcher.py")),
        *(
            word
            for flag, value in given.items()
            if value is not None
            for word in (flag, str(value))
        ),
    ]


def tokenizer_command(config: Config) -> list[str]:
    return [f"{config.runtime}/bin/python", "-I", str(HERE / "mlx_tokenizer.py"), config.model]


def environment(config: Config) -> dict[str, str]:
    """Made from nothing, so that no credential of the unit's can reach the engine."""
    return {
        "PATH": f"{config.runtime}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",  # of a template's clock: the same on every rank
        "HOME": config.cache_dir,
        "TMPDIR": config.cache_dir,
        "HF_HOME": f"{config.cache_dir}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MLX_PTX_CACHE_DIR": str(_kernels(config)),
        "CUDA_CACHE_PATH": f"{config.cache_dir}/nv",
        "CUDA_VISIBLE_DEVICES": ",".join(config.gpu_uuids),
        # On a CPU, mx.compile joins operations only where the host happens to have g++, and with
        # them a model takes less memory: the plan must hold without.
        **({} if config.gpu_uuids else {"MLX_DISABLE_COMPILE": "1"}),
        **config.engine_environment,
    }


def _kernels(config: Config) -> Path:
    """Where MLX keeps compiled kernels, under names that tell neither its version nor the GPU."""
    made_for = "-".join([Path(config.runtime).name, *config.gpu_uuids])
    return Path(config.cache_dir, "ptx", made_for)


def keep_kernels(config: Config) -> None:
    """Have room for the kernels of this runtime and GPU, and for no others."""
    with suppress(OSError):
        _kernels(config).mkdir(parents=True, exist_ok=True)
        for other in _kernels(config).parent.iterdir():
            if other != _kernels(config):
                _remove(other)


def forget_kernels(config: Config) -> None:
    """Have them compiled anew: a full disk or a power cut leaves half a file, which MLX loads."""
    _remove(_kernels(config))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def weights_bytes(model: Path) -> int:
    """What the engine reads to load (its own glob)."""
    return sum(file.stat().st_size for file in model.glob("model*.safetensors"))


def group_environment(group: Group, run_dir: Path) -> dict[str, str]:
    """MLX's own variables for one rank; all of them, or it is silently a group of one.

    Raises OSError where NCCL would take another network than the declared one.
    """
    if group.backend == "nccl":
        address, _, port = group.ranks[0].rpartition(":")
        # Of several interfaces NCCL takes the first, and loopback only where it finds no other.
        own = group.ranks[group.rank].rpartition(":")[0]
        if (name := interface(own)) is None:
            raise OSError(f"{own} is not the first address of any interface, as NCCL needs it")
        return {
            "NCCL_SOCKET_IFNAME": f"={name}",
            "NCCL_HOST_IP": address,
            "NCCL_PORT": port,
            "MLX_WORLD_SIZE": str(group.world),
            "MLX_RANK": str(group.rank),
        }
    hosts = run_dir / "ring.json"
    hosts.write_text(json.dumps([[address] for address in group.ranks]), encoding="utf-8")
    return {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(group.rank)}


def interface(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                told = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(told[20:24]) == address:
                    return name
    return "lo" if address.startswith("127.") else None


class Engine:
    """The server on its unix socket."""

    def __init__(self, path: str) -> None:
        self._socket = path
        self._gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def facts(self) -> dict[str, Any]:
        """What ``/guard`` of the launcher tells; raises EngineBroke."""
        told = await self._get("/guard")
        try:
            return dict(json.loads(told))
        except (ValueError, TypeError) as error:
            raise EngineBroke(f"its facts are not understood: {error!r}") from error

    async def alive(self) -> bool:
        """Whether its generation thread lives; raises EngineBroke where nothing answers."""
        try:
            async with upstream.request(self._socket, "GET", "/health") as answer:
                await answer.read()  # hung up upon, it would log a broken pipe each second
                return answer.status == 200  # noqa: PLR2004
        except upstream.UpstreamError as error:
            raise EngineBroke(str(error)) from error

    async def generate(self, ask: Ask) -> AsyncGenerator[Event]:
        """Ask, and yield what comes; leaving calls the request off.  Raises EngineBroke."""
        path, body = _request(ask)
        try:
            async with upstream.request(
                self._socket, "POST", path, body, gate=self._gate
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004
                    words = (await answer.read())[:500].decode(errors="replace")
                    raise EngineBroke(f"the engine answered {answer.status}: {words}")
                while block := await answer.block():
                    if block.startswith(b"data: [DONE]"):
                        return
                    for event in _events(block):
                        yield event
        except upstream.UpstreamError as error:
            raise EngineBroke(str(error)) from error
        raise EngineBroke("the engine broke off within an answer")

    async def _get(self, path: str) -> bytes:
        try:
            async with upstream.request(self._socket, "GET", path) as answer:
                return await answer.read()
        except upstream.UpstreamError as error:
            raise EngineBroke(str(error)) from error


def _request(ask: Ask) -> tuple[str, bytes]:
    """Path and body.  Only what stands here can reach the engine: no model, no seed, no stop."""
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_k": ask.top_k,
        "min_p": ask.min_p,
        "logprobs": ask.logprobs,
        "top_logprobs": ask.top_logprobs or -1,
    }
    if ask.repetition_penalty != 1.0:
        body |= {
            "repetition_penalty": ask.repetition_penalty,
            "repetition_context_size": PENALTY_TOKENS,
        }
    if ask.presence_penalty:
        body |= {
            "presence_penalty": ask.presence_penalty,
            "presence_context_size": PENALTY_TOKENS,
        }
    if ask.frequency_penalty:
        body |= {
            "frequency_penalty": ask.frequency_penalty,
            "frequency_context_size": PENALTY_TOKENS,
        }
    if ask.logit_bias:
        body["logit_bias"] = ask.logit_bias
    if ask.messages is None:
        return "/v1/completions", json.dumps(body | {"prompt": ask.prompt}).encode()
    body["messages"] = ask.messages
    if ask.tools:
        body["tools"] = ask.tools
    if ask.template_arguments:
        body["chat_template_kwargs"] = ask.template_arguments
    return "/v1/chat/completions", json.dumps(body).encode()


def _events(block: bytes) -> list[Event]:
    """The events of one block of the stream (a comment, or ``data:`` and a chunk)."""
    if block.startswith(b":"):
        words = block.split()
        if len(words) == 3 and words[1] == b"keepalive":  # noqa: PLR2004
            done, _, total = words[2].partition(b"/")
            return [Progress(int(done), int(total))]
        return [Progress()]
    if not block.startswith(b"data: "):
        raise EngineBroke(f"the engine's stream is not understood: {block[:80]!r}")
    try:
        chunk = json.loads(str(block[6:], "utf-8"))
        if not chunk["choices"]:
            used = chunk["usage"]
            cached = used.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            return [Usage(used["prompt_tokens"], used["completion_tokens"], cached)]
        (choice,) = chunk["choices"]
        delta = choice.get("delta", choice)
        events: list[Event] = [
            Delta(
                delta.get("content") or choice.get("text") or "",
                delta.get("reasoning") or "",
                tuple(delta.get("tool_calls") or ()),
                tuple(
                    Scored(token["id"], token["logprob"], tuple((i, p) for i, p in token["top"]))
                    for token in (choice.get("logprobs") or {}).get("content", ())
                ),
            )
        ]
        if choice["finish_reason"] is not None:
            events.append(Finish(choice["finish_reason"]))
    except (ValueError, KeyError, TypeError) as error:
        raise EngineBroke(f"the engine's stream is not understood: {error!r}") from error
    return events
