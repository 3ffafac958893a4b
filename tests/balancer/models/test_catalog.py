"""The catalog: models of the store and of the workers."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vllama_balancer.fake_gateway import presets
from vllama_balancer.models.catalog import Catalog
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.names import model_key
from vllama_protos.v1 import worker_pb2

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class Host:
    """A worker as the catalog sees it."""

    model: str
    unavailable: str = ""
    capabilities: tuple[int, ...] = (worker_pb2.CAPABILITY_COMPLETION,)
    described: bool = True
    others: tuple[str, ...] = ()

    @property
    def keys(self) -> set[str]:
        return {model_key(name) for name in (self.model, *self.others)}

    @property
    def description(self) -> worker_pb2.DescribeResponse | None:
        if not self.described:
            return None
        info = worker_pb2.ModelInfo(size_bytes=5)
        names = [self.model, *self.others]
        return worker_pb2.DescribeResponse(models=names, capabilities=self.capabilities, model_info=info)


class Hosts:
    """A pool."""

    def __init__(self, *hosts: Host) -> None:
        self.hosts = hosts

    def workers(self) -> tuple[Host, ...]:
        return self.hosts


def catalog(*hosts: Host) -> Catalog:
    """A catalog at a fixed time."""
    return Catalog(Hosts(*hosts), lambda: NOW)


def stored(name: str, day: int = 1, **presets: object) -> StoredModel:
    """An installed model."""
    return StoredModel(name, Path("/w"), "a" * 64, 10, "test", datetime(2026, 1, day, tzinfo=UTC), **presets)


def test_an_installed_model_is_listed_without_any_worker() -> None:
    """It is listed, not loaded, and has no description yet."""
    known = catalog()
    known.install(stored("m:a"))
    (entry,) = known.models()
    assert (entry.name, entry.replicas, entry.description, entry.size_bytes) == ("m:a", 0, None, 10)
    assert known.find("M:A") == entry and known.find("m") is None


def test_replicas_are_the_workers_that_serve() -> None:
    """A worker that starts or has failed does not count."""
    known = catalog(Host("m:a"), Host("m:a", unavailable="is starting"), Host("other:a"))
    known.install(stored("m:a"))
    assert known.find("m:a").replicas == 1


def test_what_workers_host_is_known_without_being_installed() -> None:
    """Static workers bring their models; the digest is stable and differs between models."""
    known = catalog(Host("x:1"), Host("y:1"))
    entries = known.models()
    assert sorted(entry.name for entry in entries) == ["x:1", "y:1"]
    assert len({entry.digest for entry in entries}) == 2 and all(len(entry.digest) == 64 for entry in entries)
    assert known.models() == entries and entries[0].modified_at == NOW and entries[0].size_bytes == 5


def test_a_second_name_finds_without_being_listed() -> None:
    """Only the first name of a worker is shown."""
    known = catalog(Host("x:1", others=("alias:1",)))
    assert [entry.name for entry in known.models()] == ["x:1"]
    assert known.find("alias:1").name == "alias:1"


def test_the_digest_changes_with_the_capabilities() -> None:
    """Clients cache capabilities by digest."""
    plain, tools = catalog(Host("m:a")), catalog(Host("m:a", capabilities=(1, 3)))
    for known in (plain, tools):
        known.install(stored("m:a"))
    assert plain.find("m:a").digest != tools.find("m:a").digest


def test_newest_first() -> None:
    """As /api/tags lists them."""
    known = catalog()
    known.install(stored("old:a", 1))
    known.install(stored("new:a", 3))
    assert [entry.name for entry in known.models()] == ["new:a", "old:a"]


def test_an_alias_is_as_loaded_as_its_parent() -> None:
    """Replicas, description and expiry are those of the model behind it."""
    known = catalog(Host("base:a"))
    known.install(stored("base:a"))
    known.install(stored("mine:latest", parent="base:a", presets=presets("Be brief.")))
    known.expires(model_key("base:a"), 60)
    alias = known.find("mine")
    assert (alias.replicas, alias.target, alias.presets.system) == (1, "base:a", "Be brief.")
    assert alias.expires_at == NOW + timedelta(seconds=60) and alias.description is not None


@pytest.mark.parametrize("seconds", [None, 315_360_001.0, 1e300, math.inf, -math.inf, math.nan])
def test_no_date_is_computed_from_ages(seconds: float | None) -> None:
    """A model that stays for more than ten years does not expire."""
    known = catalog(Host("base:a"))
    known.expires(model_key("base:a"), 60)
    known.expires(model_key("base:a"), seconds)
    entry = known.find("base:a")
    assert entry is not None and entry.expires_at is None


def test_a_removed_model_is_unknown() -> None:
    """Unless a worker still hosts it."""
    known = catalog()
    known.install(stored("m:a"))
    known.remove("M:a")
    assert known.find("m:a") is None and known.models() == []


def test_files_describe_a_model_until_a_worker_does() -> None:
    """A worker's description replaces that of the files once the worker has loaded."""
    files = worker_pb2.DescribeResponse(models=["m:a"], capabilities=[1, 2])
    starting, ready = Host("m:a", capabilities=()), Host("m:a", capabilities=(1, 2, 3))
    for hosts, expected in (((), [1, 2]), ((starting,), [1, 2]), ((ready,), [1, 2, 3])):
        known = catalog(*hosts)
        known.install(stored("m:a"), files)
        assert list(known.find("m:a").description.capabilities) == expected


async def test_an_expected_model_is_waited_for() -> None:
    """A search during the installation returns the model and not None."""
    known = catalog()
    known.expect(["Late:1"])
    searching = asyncio.create_task(known.find_or_wait("late:1"))
    known.install(stored("other:1"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert known.expects("late:1") and not searching.done()
    known.install(stored("late:1"))
    assert (await searching).name == "late:1"
    assert not known.expects("late:1")


async def test_a_search_does_not_wait_for_an_unexpected_model() -> None:
    """Neither for an unknown one, nor for one that is no longer expected."""
    known = catalog()
    known.expect(["late:1"])
    assert await known.find_or_wait("typo:1") is None
    searching = asyncio.create_task(known.find_or_wait("late:1"))
    await asyncio.sleep(0)
    known.expect(())
    assert await searching is None
