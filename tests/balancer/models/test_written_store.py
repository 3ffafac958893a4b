"""A store that an earlier version wrote is listed, resolved and shown as by that version.

`written_store` was written by commit 9e6e207; `written_store_replies.json` holds its replies to /api/tags and
/api/show for that store.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import TestClient, TestServer

from vllama_balancer.edge.app import build_app
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway
from vllama_balancer.models.catalog import Catalog
from vllama_balancer.models.resolve import Resolver
from vllama_balancer.models.store import Store
from vllama_balancer.models.table import ModelTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.gateway import ModelEntry

HERE = Path(__file__).parent
REPLIES = json.loads((HERE / "written_store_replies.json").read_text())
DIGESTS = {
    "pictures:v1": "b0665c19b2321ed2a98d6d5bcdc965e6f285273d2309602c392f6fbb717cd121",
    "brief:latest": "9007b2862f6f28e1d573b104313eb43c12645aeb05edb71da4946e5488438d63",
    "plain-copy:latest": "79285445b43bde8e42548c8994c91ca5fcbff6347250a40cb1033bfe155aae47",
    "org/repo:latest": "2" * 64,
    "smollm2:135m": "79285445b43bde8e42548c8994c91ca5fcbff6347250a40cb1033bfe155aae47",
}
"""Newest first. A copy shares the digest of its source; presets change it."""


class NoWorkers:
    """A pool without workers."""

    def workers(self) -> tuple[()]:
        return ()


class CatalogGateway(FakeGateway):
    """A gateway whose models are those of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.catalog = catalog

    def models(self) -> Sequence[ModelEntry]:
        return self.catalog.models()

    def find(self, name: str) -> ModelEntry | None:
        return self.catalog.find(name)

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        return self.catalog.find(name)


@pytest.fixture
def written() -> Store:
    """The store as it was written."""
    return Store(HERE / "written_store")


@pytest.fixture
def resolver(written: Store) -> Resolver:
    """Resolves by that store and the shipped table."""
    return Resolver(written, ModelTable.load(), {})


@pytest.fixture
def catalog(written: Store, resolver: Resolver) -> Catalog:
    """The catalog of that store, filled as at the start of a balancer."""
    made = Catalog(NoWorkers())
    for model in written.models():
        made.install(model, resolver.describe(model))
    return made


def test_names_and_digests_are_those_that_were_written(written: Store) -> None:
    """The digest over weights and presets is computed, and equals the one in the manifest."""
    assert {model.name: model.digest for model in written.models()} == DIGESTS
    for path in (written.directory / "manifests").iterdir():
        record = json.loads(path.read_bytes())
        assert DIGESTS[record["name"]] == record["digest"]


@pytest.mark.parametrize("name", DIGESTS)
def test_every_name_resolves_to_its_weights(resolver: Resolver, written: Store, name: str) -> None:
    """Nothing is downloaded or converted again, whatever the spelling."""
    folder = "hub-org--repo-c0ffeec0ffee" if name == "org/repo:latest" else "gguf-0123456789abcdef"
    for spelling in (name, name.upper()):
        assert resolver.locate(spelling, paths=False).weights == written.weights_directory / folder


def test_manifests_are_written_as_before(written: Store, tmp_path: Path) -> None:
    """A model that is registered again gets the same bytes."""
    again = Store(tmp_path / "again")
    shutil.copytree(written.directory, again.directory)
    for model in again.models():
        again.register(model)
    for path in (written.directory / "manifests").iterdir():
        assert (again.directory / "manifests" / path.name).read_bytes() == path.read_bytes()


async def test_tags_and_show_reply_as_before(catalog: Catalog) -> None:
    """Sizes, digests, presets, templates and licences are those that the earlier version showed."""
    async with TestClient(TestServer(build_app(CatalogGateway(catalog), fleet=FakeFleet()))) as http:
        async with http.get("/api/tags") as reply:
            assert await reply.json() == REPLIES["tags"]
        for name, shown in REPLIES["show"].items():
            async with http.post("/api/show", json={"model": name}) as reply:
                assert await reply.json() == shown


def test_preset_turns_reach_a_chat_whole(catalog: Catalog) -> None:
    """Pictures, thoughts and tool calls of a stored turn are in the messages that a chat starts with."""
    question, call, result, answer = catalog.find("pictures:v1").presets.messages
    assert question.content == "What is in the picture?" and question.images[0].data == b"hi"
    assert (call.role, call.thinking, call.tool_calls[0].name) == ("assistant", "Better look.", "look")
    assert json.loads(call.tool_calls[0].arguments_json) == {"x": 1, "deep": [True, None]}
    assert (result.role, result.content, result.tool_name) == ("tool", "a cat", "look")
    assert answer.content == "A cat. Größe: 2 ✓"


def test_aliases_are_served_by_the_model_they_were_made_from(catalog: Catalog) -> None:
    """An alias of an alias points at the root."""
    targets = {entry.name: entry.target for entry in catalog.models()}
    roots = {"smollm2:135m": "", "org/repo:latest": ""}
    assert targets == dict.fromkeys(DIGESTS, "smollm2:135m") | roots
