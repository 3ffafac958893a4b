"""Measurements of the machine for the doctor: everything here reads, nothing changes."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pynvml

from vllama_clients.doctor import findings
from vllama_clients.doctor.findings import Finding, Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HUB = "https://huggingface.co"
HUB_TIMEOUT_SECONDS = 5.0
PORT_TIMEOUT_SECONDS = 1.0
TRUE = ("1", "true", "yes", "on")


def examine(environment: Mapping[str, str], http_port: int, grpc_port: int) -> Iterator[Finding]:
    """Yields every finding, the quick ones first."""
    yield findings.python(sys.version_info[:2], sys.platform)
    yield from findings.packages(installed())
    devices, driver = nvidia()
    yield from findings.gpus(devices, driver)
    yield findings.processor(os.cpu_count() or 1, cpu_flags(), has_gpu=bool(devices))
    memory = psutil.virtual_memory()
    yield findings.memory(memory.total, memory.available)
    yield findings.shared_memory(shared_memory_bytes())
    yield findings.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield findings.disk(*room(environment))
    yield _port("the Ollama and OpenAI APIs", http_port, "--port", is_ours=speaks_ollama(http_port))
    yield _port("gRPC", grpc_port, "--grpc-port", is_ours=speaks_grpc(grpc_port))
    yield hub(environment)


def installed() -> dict[str, str]:
    """Lists the versions of what is installed, by distribution name."""
    return {distribution.name.lower(): distribution.version for distribution in distributions() if distribution.name}


def nvidia() -> tuple[list[Gpu], str]:
    """Reads the GPUs and the driver's version; nothing when no driver answers."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return [], ""
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [_gpu(handle) for handle in handles], str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def cpu_flags() -> frozenset[str]:
    """Reads the CPU's flags; empty where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(flags, "").split())


def shared_memory_bytes() -> int | None:
    """Measures /dev/shm; None when there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def room(environment: Mapping[str, str]) -> tuple[str, int]:
    """Measures the free space where models are kept."""
    data = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    store = environment.get("VLLAMA_MODELS") or environment.get("OLLAMA_MODELS") or f"{data}/vllama/models"
    there = next(path for path in (Path(store).absolute(), *Path(store).absolute().parents) if path.exists())
    return store, shutil.disk_usage(there).free


def owner(port: int) -> str:
    """Names the process that listens on a port; empty when it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _listener(port)
    return ""


def speaks_ollama(port: int) -> bool:
    """Returns whether an Ollama-compatible server listens on a port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PORT_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/api/version")
        return b'"version"' in connection.getresponse().read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def speaks_grpc(port: int) -> bool:
    """Returns whether an HTTP/2 server listens on a port: one that answers the preface with a SETTINGS frame."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    try:
        with socket.create_connection(("127.0.0.1", port), PORT_TIMEOUT_SECONDS) as connection:
            connection.settimeout(PORT_TIMEOUT_SECONDS)
            connection.sendall(preface)
            return connection.recv(9)[3:4] == b"\x04"
    except OSError:
        return False


def hub(environment: Mapping[str, str]) -> Finding:
    """Calls the model hub, unless the environment forbids it."""
    endpoint = environment.get("HF_ENDPOINT", "").rstrip("/") or HUB
    offline = environment.get("HF_HUB_OFFLINE", "").lower() in TRUE
    trouble = "" if offline else _trouble(endpoint)
    return findings.hub(endpoint, trouble, is_offline=offline, has_token=bool(environment.get("HF_TOKEN")))


def _port(purpose: str, number: int, flag: str, *, is_ours: bool) -> Finding:
    return findings.port(purpose, number, flag, owner=owner(number), is_ours=is_ours)


def _trouble(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=HUB_TIMEOUT_SECONDS)
    try:
        connection.request("HEAD", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return "" if status < 500 else f"status {status}"


def _listener(port: int) -> str:
    """Names the listener; the process of another user may hide its name."""
    try:
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if is_listening and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except psutil.Error:
        pass
    return "another process"


def _gpu(handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.used))
