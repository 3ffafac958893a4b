"""Clients pull, delete, copy and create models, in the store and in the catalog."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.balancer.models.hub import Hub, Repo, stalls_after
from tests.balancer.scripted_worker import eventually
from vllama_balancer.callers import Caller
from vllama_balancer.errors import ModelNotFound, PermissionDenied
from vllama_balancer.fake_gateway import presets
from vllama_balancer.gateway import Recipe
from vllama_balancer.keys import ALL_SCOPES, Scope
from vllama_balancer.models.catalog import Catalog
from vllama_balancer.models.errors import AccessRefused, DoesNotFit, ModelError, ModelInUse, ModelUnknown, PullsFull
from vllama_balancer.models.management import StoreManagement
from vllama_balancer.models.pulls import PullQueue, PullRules
from vllama_balancer.models.resolve import GgufFile, HubRepository, Resolver
from vllama_balancer.models.store import Store
from vllama_balancer.models.table import ModelTable
from vllama_balancer.names import model_key
from vllama_balancer.preset_options import option_values
from vllama_protos.v1 import generation_pb2, worker_pb2

OPERATOR = Caller("127.0.0.1", ALL_SCOPES, is_local=True)
USER = Caller("127.0.0.1", frozenset({Scope.INFER}), "alice", is_local=True)
MAINTAINER = Caller("192.0.2.1", frozenset({Scope.MODELS}), "bob")


class NoWorkers:
    """A pool without workers."""

    def workers(self) -> tuple[()]:
        return ()


class Loaded:
    """Remembers what was unloaded; "pinned" models stay."""

    def __init__(self) -> None:
        self.pinned: set[str] = set()
        self.unloaded: list[str] = []

    def is_pinned(self, key: str) -> bool:
        return key in self.pinned

    async def unload(self, key: str) -> None:
        self.unloaded.append(key)


def environment(hub: Hub, directory: Path) -> dict[str, str]:
    """An environment in which pulls go to a hub, with the operator's token."""
    ours = {"PATH": "/usr/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(directory), "HF_TOKEN": "operators", **ours}


class Setup:
    """Everything that management works on."""

    def __init__(
        self,
        store: Store,
        environment: dict[str, str],
        named: tuple[str, ...] = (),
        rules: PullRules | None = None,
    ) -> None:
        self.store = store
        self.catalog = Catalog(NoWorkers())
        self.loaded = Loaded()
        resolver = Resolver(store, ModelTable.load(), environment)
        self.management = StoreManagement(store, resolver, self.catalog, self.loaded, named, rules)

    async def pulled(self, name: str, caller: Caller = OPERATOR) -> list[str]:
        """Pulls and returns the statuses."""
        async with aclosing(self.management.pull(name, caller)) as steps:
            return [step.status async for step in steps]


@pytest.fixture
def setup(store: Store, installed) -> Setup:
    """One installed model, "base:1b"."""
    made = Setup(store, {})
    made.catalog.install(installed("base:1b", license="mit", presets=presets(top_k=40)))
    return made


async def test_a_pulled_model_can_be_named_at_once(store: Store, tmp_path: Path) -> None:
    """After the pull it is in the catalog and in the store; a second pull finds it."""
    async with Hub() as hub:
        hub.repos["org/repo"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 99})
        setup = Setup(store, environment(hub, tmp_path))
        statuses = await setup.pulled("org/repo")
        assert statuses[0] == "pulling manifest" and statuses[-1] == "writing manifest"
        assert setup.catalog.find("org/repo").size_bytes > 99
        assert await setup.pulled("org/repo") == ["already installed"]


async def test_a_model_that_was_pulled_by_its_bare_name_is_found_by_it(store: Store, tmp_path: Path) -> None:
    """`ollama run smollm2` works after `ollama pull smollm2`."""
    async with Hub() as hub:
        hub.repos["HuggingFaceTB/SmolLM2-1.7B-Instruct"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 99})
        setup = Setup(store, environment(hub, tmp_path))
        await setup.pulled("smollm2")
        assert setup.catalog.find("smollm2").name == "smollm2:latest"
        assert (await setup.pulled("smollm2"))[-1] == "already installed"


async def test_an_unknown_model_cannot_be_pulled(setup: Setup) -> None:
    """The error is the resolver's."""
    with pytest.raises(ModelUnknown, match="there is no model nosuchmodel"):
        await setup.pulled("nosuchmodel")


async def test_a_path_cannot_be_pulled(setup: Setup) -> None:
    """A client must not make the server read its disk."""
    with pytest.raises(ModelUnknown):
        await setup.pulled("/etc")


async def test_a_copy_is_served_by_the_original(setup: Setup) -> None:
    """The copy is listed under its own name, shares the digest, and points at the workers of the original."""
    await setup.management.copy("base:1b", "mine")
    copy, original = setup.catalog.find("mine"), setup.catalog.find("base:1b")
    assert (copy.name, copy.digest, copy.target) == ("mine:latest", original.digest, "base:1b")


async def test_an_alias_keeps_its_presets_over_a_restart(setup: Setup) -> None:
    """System text, turns and parameters are there again from the store alone; parameters lie over the base's."""
    recipe = Recipe(
        "base:1b",
        "Be brief.",
        options=presets(temperature=0.1).options,
        messages=[generation_pb2.Message(role="user", content="hi")],
        license="mine",
    )
    await setup.management.create("brief", recipe)
    reopened = Catalog(NoWorkers())
    for model in Store(setup.store.directory).models():
        reopened.install(model)
    alias = reopened.find("brief")
    assert (alias.presets.system, alias.license, alias.target) == ("Be brief.", "mine", "base:1b")
    assert option_values(alias.presets.options) == {"top_k": 40, "temperature": 0.1}
    assert [(message.role, message.content) for message in alias.presets.messages] == [("user", "hi")]
    assert alias.digest != reopened.find("base:1b").digest


async def test_an_alias_of_an_alias_points_at_the_root(setup: Setup) -> None:
    """Only what workers host is a target, and presets are inherited."""
    await setup.management.create("one", Recipe("base:1b", system="One."))
    await setup.management.create("two", Recipe("one", options=presets(seed=1).options))
    two = setup.catalog.find("two")
    assert (two.target, two.presets) == ("base:1b", presets("One.", top_k=40, seed=1))


async def test_delete_unloads_and_removes(setup: Setup) -> None:
    """The model is gone from the catalog, the workers, the store and the disk."""
    weights = setup.catalog.installed("base:1b").weights
    await setup.management.delete("base:1b")
    assert setup.catalog.find("base:1b") is None and setup.loaded.unloaded == [model_key("base:1b")]
    assert setup.store.find("base:1b") is None and not weights.exists()


async def test_an_alias_outlives_its_base(setup: Setup) -> None:
    """Deleting the base keeps the weights for the alias, which is then hosted under its own name."""
    await setup.management.copy("base:1b", "mine")
    await setup.management.delete("base:1b")
    entry = setup.catalog.find("mine")
    assert entry.target == "" and setup.catalog.hosted("mine").names == ("mine:latest",)
    assert setup.store.find("mine").weights.is_dir()


async def change(setup: Setup, call: str, name: str) -> None:
    """Deletes a name, or gives it to another model."""
    if call == "delete":
        await setup.management.delete(name)
    elif call == "copy":
        await setup.management.copy("base:1b", name)
    else:
        await setup.management.create(name, Recipe("base:1b", system="INJECTED"))


@pytest.mark.parametrize("call", ["delete", "copy", "create"])
@pytest.mark.parametrize("spelling", ["base:1b", "BASE:1B", "library/base:1b", "registry.ollama.ai/library/Base:1b"])
@pytest.mark.parametrize("shown_by", ["flags", "scheduler"])
async def test_a_named_model_stays_as_it_is(store: Store, installed, call: str, spelling: str, shown_by: str) -> None:
    """Under any spelling, also before the scheduler has it; the store and the catalog keep it."""
    setup = Setup(store, {}, named=("base:1b",) if shown_by == "flags" else ())
    setup.catalog.install(installed("base:1b", license="mit", presets=presets(top_k=40)))
    if shown_by == "scheduler":
        setup.loaded.pinned.add(model_key("base:1b"))
    before = setup.catalog.find("base:1b")
    with pytest.raises(ModelInUse, match="as long as the server runs"):
        await change(setup, call, spelling)
    assert setup.catalog.find("base:1b") == before
    assert setup.store.find("base:1b").presets == before.presets


@pytest.mark.parametrize("call", ["copy", "create"])
async def test_a_named_model_is_not_shadowed_before_it_is_installed(store: Store, installed, call: str) -> None:
    """The name of a model that still loads is not free."""
    setup = Setup(store, {}, named=("qwen2.5",))
    setup.catalog.install(installed("base:1b"))
    with pytest.raises(ModelInUse, match="choose another name"):
        await change(setup, call, "qwen2.5:latest")
    assert setup.store.find("qwen2.5") is None


class Hosting:
    """A pool with one worker that was started elsewhere."""

    keys = (model_key("theirs:1b"),)
    description = worker_pb2.DescribeResponse(models=["theirs:1b"], capabilities=[worker_pb2.CAPABILITY_CHAT])
    unavailable = ""

    def workers(self) -> tuple[Hosting]:
        return (self,)


@pytest.mark.parametrize("call", ["copy", "create"])
async def test_a_model_of_other_workers_is_not_shadowed(setup: Setup, call: str) -> None:
    """A name in the store would hide what their operator named."""
    setup.catalog._workers = Hosting()
    with pytest.raises(ModelInUse, match="theirs:1b"):
        await change(setup, call, "theirs:1b")


@pytest.mark.parametrize("call", ["copy", "create"])
async def test_other_names_are_overwritten(setup: Setup, call: str) -> None:
    """As with Ollama."""
    await change(setup, "create", "mine")
    await change(setup, call, "mine")
    assert setup.catalog.find("mine").target == "base:1b"


@pytest.mark.parametrize("call", ["delete", "copy", "create"])
async def test_unknown_models_are_not_found(setup: Setup, call: str) -> None:
    """Each call raises the balancer's own error."""
    arguments = {"delete": ("x",), "copy": ("x", "y"), "create": ("y", Recipe("x"))}[call]
    with pytest.raises(ModelNotFound):
        await getattr(setup.management, call)(*arguments)


async def test_without_the_scope_nothing_is_installed(store: Store, installed, tmp_path: Path) -> None:
    """No download begins, so the operator's token goes nowhere; what is installed is found."""
    async with Hub() as hub:
        hub.repos["org/repo"] = Repo({"config.json": b"{}", "model.safetensors": b"w"}, token="operators")
        setup = Setup(store, environment(hub, tmp_path), rules=PullRules(sources=["any"]))
        setup.catalog.install(installed("base:1b"))
        with pytest.raises(PermissionDenied, match="needs the scope models, and the key of alice has infer"):
            await setup.pulled("org/repo", USER)
        assert hub.requests == []
        assert await setup.pulled("BASE:1b", USER) == ["already installed"]
        assert (await setup.pulled("org/repo", MAINTAINER))[-1] == "writing manifest"


@pytest.mark.parametrize(
    ("source", "sources", "is_allowed"),
    [
        (HubRepository("x", "Qwen/Qwen2.5-0.5B-Instruct"), [], True),
        (HubRepository("x", "qwen/qwen2.5-0.5b-instruct", "Q8_0"), ["table"], True),
        (HubRepository("x", "evil/model"), [], False),
        (HubRepository("x", "evil/model"), ["table", "Evil/Model"], True),
        (HubRepository("x", "evil/other"), ["evil/model"], False),
        (HubRepository("x", "evil/other"), ["evil"], True),
        (HubRepository("x", "evil-twin/other"), ["evil"], False),
        (HubRepository("x", "table/other"), ["table"], False),
        (HubRepository("x", "Qwen/Qwen2.5-0.5B-Instruct"), ["evil"], False),
        (HubRepository("x", "evil/model"), ["any"], True),
        (GgufFile("x", Path("/x.gguf"), "package x 1.0"), [], True),
        (GgufFile("x", Path("/x.gguf"), "package x 1.0"), ["evil"], False),
    ],
)
def test_clients_pull_from_listed_sources(
    source: HubRepository | GgufFile, sources: list[str], is_allowed: bool
) -> None:
    """Unlisted ones are refused with the flag; a caller on this machine, where no keys are set, may pull from any."""
    rules = PullRules(ModelTable.load(), sources)
    rules.check(source, OPERATOR)
    if is_allowed:
        rules.check(source, MAINTAINER)
    else:
        with pytest.raises(PermissionDenied, match="--pull-from"):
            rules.check(source, MAINTAINER)


async def test_clients_pull_no_pickles(store: Store, tmp_path: Path) -> None:
    """Loading one can run code; the operator may name such a model, and serves it."""
    async with Hub() as hub:
        hub.repos["org/old"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"w"})
        setup = Setup(store, environment(hub, tmp_path))
        with pytest.raises(AccessRefused, match="only pickles"):
            await setup.pulled("org/old")
        assert hub.asked("pytorch_model.bin") == []
        assert (await setup.management._resolver.resolve("org/old", lambda _: None)).name == "org/old:latest"


async def test_pulls_stay_within_their_quota(store: Store, installed, tmp_path: Path) -> None:
    """What other models take counts; the message has the numbers and the flag."""
    installed("base:1b")
    async with Hub() as hub:
        hub.repos["org/repo"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 1000})
        small = Setup(store, environment(hub, tmp_path), rules=PullRules(quota_bytes=1011))
        with pytest.raises(DoesNotFit, match="raise --pull-quota"):
            await small.pulled("org/repo")
        enough = Setup(store, environment(hub, tmp_path), rules=PullRules(quota_bytes=1012))
        assert (await enough.pulled("org/repo"))[-1] == "writing manifest"


async def test_two_pulls_at_once(store: Store, tmp_path: Path) -> None:
    """Others wait, and those beyond the bound are told when to come back; a turn is free when its client leaves."""
    async with Hub() as hub:
        for number in range(4):
            hub.repos[f"org/repo{number}"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 99})
        released = asyncio.Event()
        hub.faults["model.safetensors"] = [stalls_after(1, released), stalls_after(1, released)]
        setup = Setup(store, environment(hub, tmp_path))
        setup.management._queue = queue = PullQueue(most_waiting=1)
        first, second = (asyncio.create_task(setup.pulled(f"org/repo{number}")) for number in range(2))
        await eventually(lambda: len(hub.asked("model.safetensors")) == 2, 30)
        third = asyncio.create_task(setup.pulled("org/repo2"))
        await eventually(lambda: queue.waiting == 1)
        with pytest.raises(PullsFull, match="1 wait") as caught:
            await setup.pulled("org/repo3")
        assert caught.value.retry_after_seconds == 30
        assert len(hub.asked("model.safetensors")) == 2
        first.cancel()
        assert (await third)[:1] == ["waiting for other pulls to end"]
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert (queue.waiting, queue.is_busy) == (0, False)
        released.set()


class FullDisk(Store):
    """A store on a disk that refuses the next file."""

    error = 0

    def register(self, model):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().register(model)


@pytest.mark.parametrize("call", ["copy", "create"])
@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DoesNotFit, "no space left on the disk of"),
        (errno.EDQUOT, DoesNotFit, "no space left on the disk of"),
        (errno.EROFS, ModelError, "cannot be written: Read-only file system"),
    ],
)
async def test_a_disk_that_is_full_is_named(store: Store, installed, call, number, kind, words) -> None:
    """The error says what to do, and neither the store nor the catalog has the new name."""
    full = FullDisk(store.directory)
    setup = Setup(full, {})
    setup.catalog.install(installed("base:1b"))
    full.error = number
    with pytest.raises(kind, match=words):
        await change(setup, call, "mine")
    assert [model.name for model in full.models()] == ["base:1b"]
    assert [entry.name for entry in setup.catalog.models()] == ["base:1b"]
    full.error = 0
    await change(setup, call, "mine")
    assert len(full.models()) == 2
