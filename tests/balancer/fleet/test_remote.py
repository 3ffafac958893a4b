"""Workers at given addresses and behind DNS names."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from vllama_balancer.fleet.events import Added, Removed
from vllama_balancer.fleet.remote import LOOKUPS_TO_LEAVE, DnsFleet, StaticFleet, system_resolve


class Names:
    """A name server that answers from a list, one answer a lookup."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> list[str]:
        """Returns the next answer, and the last one repeatedly."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [f"{address}:{port}" for address in answer]


async def taken(fleet, count: int) -> list[object]:
    """Reads so many events."""
    async with asyncio.timeout(10), aclosing(fleet.events()) as events:
        return [await anext(events) for _ in range(count)]


async def pause(_: float) -> None:
    """Does not wait."""
    await asyncio.sleep(0)


async def test_given_addresses_are_announced_once() -> None:
    """Each address is one worker and its name; a repeated one counts once."""
    events = StaticFleet(["a:1", "unix:/b", "a:1"]).events()
    assert [await anext(events), await anext(events)] == [Added("a:1", "a:1"), Added("unix:/b", "unix:/b")]
    rest = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert not rest.done()
    rest.cancel()


async def test_every_address_of_a_name_is_a_worker() -> None:
    """New records are added, and those that stay missing are removed."""
    fleet = DnsFleet("dns:///workers:7", Names(["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.3"]), pause)
    assert await taken(fleet, 4) == [
        Added("10.0.0.1:7", "10.0.0.1:7"), Added("10.0.0.2:7", "10.0.0.2:7"),
        Added("10.0.0.3:7", "10.0.0.3:7"), Removed("10.0.0.1:7", "left workers"),
    ]  # fmt: skip


async def test_a_resolver_may_answer_with_subsets() -> None:
    """A record that is missing now and then stays, however often; an outage is no answer without it."""
    both, first, second = ["10.0.0.1", "10.0.0.2"], ["10.0.0.1"], ["10.0.0.2"]
    down = [OSError("down")] * LOOKUPS_TO_LEAVE
    answers = [*[first, second] * 50, both, *down, *[first] * LOOKUPS_TO_LEAVE]
    fleet = DnsFleet("dns:///workers:7", Names(both, *answers[:-1], answers[-1]), pause)
    names = fleet._resolve
    found = await taken(fleet, 3)
    assert found[2] == Removed("10.0.0.2:7", "left workers")
    assert names.answers == [first], "it was removed before it had been missing for long"


async def test_a_failed_lookup_changes_nothing() -> None:
    """An outage of the name server does not empty the fleet."""
    fleet = DnsFleet(
        "dns:///workers:7", Names(["10.0.0.1"], OSError("down"), OSError("down"), ["10.0.0.1", "10.0.0.9"]), pause
    )
    assert [event.name for event in await taken(fleet, 2)] == ["10.0.0.1:7", "10.0.0.9:7"]


async def test_the_system_resolver_is_asked() -> None:
    """An address stands for itself, with brackets around IPv6."""
    assert await system_resolve("127.0.0.1", 5) == ["127.0.0.1:5"]
    assert await system_resolve("::1", 5) == ["[::1]:5"]
