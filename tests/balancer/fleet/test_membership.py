"""Workers that join: leases, their end, and that no worker is counted twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.errors import ConfigError, InvalidRequest, Unauthenticated
from vllama_balancer.fleet.events import Added, Removed
from vllama_balancer.fleet.membership import JoinedFleet, NotAccepted, Offer, read_token

if TYPE_CHECKING:
    from pathlib import Path

    from vllama_balancer.fleet.events import FleetEvent

TOKEN = "a-token-that-is-long-enough"
OFFER = Offer("gpu7", "boot", "10.0.0.7:50061", ("m:latest",))
ADDED = Added("gpu7@10.0.0.7:50061", "10.0.0.7:50061", ("m:latest",))


async def next_event(fleet: JoinedFleet) -> FleetEvent:
    """The fleet's next event."""
    async with asyncio.timeout(10):
        return await anext(fleet.events())


async def silent(fleet: JoinedFleet) -> bool:
    """Returns True if no event is ready."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(fleet.events())
    return True


async def test_a_worker_is_listed_until_one_lease_after_its_call() -> None:
    """It is added with its address and models, and removed when the lease has expired."""
    fleet = JoinedFleet(TOKEN, lease_seconds=0.05)
    with fleet.lease(OFFER, TOKEN):
        assert await next_event(fleet) == ADDED
    assert await next_event(fleet) == Removed(ADDED.name, "has left")


async def test_a_call_within_the_lease_changes_nothing() -> None:
    """A short interruption changes nothing."""
    fleet = JoinedFleet(TOKEN, lease_seconds=30)
    with fleet.lease(OFFER, TOKEN):
        assert await next_event(fleet) == ADDED
    with fleet.lease(OFFER, TOKEN):
        assert await silent(fleet)


async def test_two_calls_for_one_address_are_one_worker() -> None:
    """The later call replaces the earlier one, whose end is then ignored."""
    fleet = JoinedFleet(TOKEN, lease_seconds=0.01)
    with fleet.lease(OFFER, TOKEN) as first:
        assert await next_event(fleet) == ADDED
        with fleet.lease(Offer("gpu7", "boot-2", OFFER.address), TOKEN) as second:
            assert first.superseded.is_set() and not second.superseded.is_set()
            assert await silent(fleet)
    assert isinstance(await next_event(fleet), Removed)
    assert await silent(fleet)


async def test_the_end_of_a_superseded_call_removes_no_worker() -> None:
    """A half-open connection that breaks late does not remove the worker's new call."""
    fleet = JoinedFleet(TOKEN, lease_seconds=0.01)
    first = fleet.lease(OFFER, TOKEN)
    first.__enter__()
    assert await next_event(fleet) == ADDED
    with fleet.lease(OFFER, TOKEN):
        first.__exit__(None, None, None)
        await asyncio.sleep(0.05)
        assert await silent(fleet)


async def test_two_workers_of_one_name_are_two() -> None:
    """Workers may share the default name; the address distinguishes them."""
    fleet = JoinedFleet(TOKEN)
    with fleet.lease(OFFER, TOKEN), fleet.lease(Offer("gpu7", "other", "10.0.0.8:50061"), TOKEN):
        assert {(await next_event(fleet)).name, (await next_event(fleet)).name} == {ADDED.name, "gpu7@10.0.0.8:50061"}


async def test_another_worker_does_not_displace_one_that_is_joined() -> None:
    """As long as its call lasts, an address belongs to the worker that took it."""
    fleet = JoinedFleet(TOKEN)
    with fleet.lease(OFFER, TOKEN) as first:
        assert await next_event(fleet) == ADDED
        with pytest.raises(NotAccepted, match=r"gpu7.*joined"), fleet.lease(Offer("new", "b", OFFER.address), TOKEN):
            pass
        assert not first.superseded.is_set()
        assert await silent(fleet)


async def test_another_worker_takes_the_address_of_one_that_has_left() -> None:
    """The earlier worker's call has ended: it is removed for the new one, before its lease is over."""
    fleet = JoinedFleet(TOKEN)
    with fleet.lease(OFFER, TOKEN):
        assert await next_event(fleet) == ADDED
    with fleet.lease(Offer("new", "boot", OFFER.address), TOKEN):
        assert isinstance(await next_event(fleet), Removed)
        assert (await next_event(fleet)).name == "new@10.0.0.7:50061"


async def test_the_number_of_workers_is_bounded() -> None:
    """One more is refused, one that is joined already may call again, and a place that is free again is given."""
    fleet = JoinedFleet(TOKEN, lease_seconds=0.01, most_workers=1)
    with fleet.lease(OFFER, TOKEN):
        assert await next_event(fleet) == ADDED
        with pytest.raises(NotAccepted, match="1 workers"), fleet.lease(Offer("c", "boot", "h:3"), TOKEN):
            pass
        with fleet.lease(OFFER, TOKEN):
            assert await silent(fleet)
    assert isinstance(await next_event(fleet), Removed)
    with fleet.lease(Offer("c", "boot", "h:3"), TOKEN):
        assert (await next_event(fleet)).name == "c@h:3"


async def test_a_wrong_token_is_refused() -> None:
    """Nothing is listed."""
    fleet = JoinedFleet(TOKEN)
    for token in ("", "wrong", TOKEN + "x", "\udcff"):
        with pytest.raises(Unauthenticated), fleet.lease(OFFER, token):
            pass
    assert await silent(fleet)


@pytest.mark.parametrize(
    ("offer", "field"),
    [
        (Offer("", "boot", "h:1"), "worker"),
        (Offer("a\nb", "boot", "h:1"), "worker"),
        (Offer("a" * 129, "boot", "h:1"), "worker"),
        (Offer("a", "", "h:1"), "boot_id"),
        (Offer("a", "boot", "h"), "address"),
        (Offer("a", "boot", "unix:/tmp/x"), "address"),
        (Offer("a", "boot", "dns:///h:1"), "address"),
        (Offer("a", "b" * 129, "h:1"), "boot_id"),
        (Offer("a", "b\n", "h:1"), "boot_id"),
        (Offer("a", "boot", "h" * 300 + ":1"), "address"),
        (Offer("a", "boot", "h:1", ("m",) * 65), "models"),
        (Offer("a", "boot", "h:1", ("m" * 257,)), "models"),
        (Offer("a", "boot", "h:1", ("m\n",)), "models"),
    ],
)
async def test_an_invalid_offer_names_its_field(offer: Offer, field: str) -> None:
    """Each wrong field is refused by name."""
    with pytest.raises(InvalidRequest) as error, JoinedFleet(TOKEN).lease(offer, TOKEN):
        pass
    assert error.value.field == field


def test_a_token_file_is_read_and_a_poor_one_refused(tmp_path: Path) -> None:
    """Blanks around it are ignored; a short or missing token is a configuration error."""
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    assert read_token(path) == TOKEN
    path.write_text("short")
    with pytest.raises(ConfigError, match="vllama certs init"):
        read_token(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
