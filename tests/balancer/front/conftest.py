"""Front doors that are started for a test and stopped after it."""

import grpc
import pytest

from tests.balancer.front.front_door import Control, Served
from vllama_balancer.front.server import GrpcServer
from vllama_balancer.startup.fleet_view import PoolView
from vllama_balancer.workers.rolling_restart import RollingRestart


@pytest.fixture
async def open_door(make_fleet):
    """Starts servers and stops them at the end."""
    doors = []

    async def make(count=2, access=None, owned=True, models=None, unloader=None, limits=None, **options):
        fleet = await make_fleet(count, **options)
        rolling = RollingRestart(fleet.pool, Control(fleet, owned))
        view = PoolView(fleet.pool, lambda: fleet.dispatcher.waiting, models)
        front = GrpcServer(fleet.dispatcher, fleet.pool, rolling, view, access, unloader=unloader, limits=limits)
        port = await front.start("127.0.0.1:0")
        door = Served(fleet, front, grpc.aio.insecure_channel(f"127.0.0.1:{port}"), port)
        door.control, door.rolling = rolling._control, rolling
        doors.append(door)
        return door

    yield make
    for door in doors:
        await door.channel.close()
        await door.front.stop(0)
        await door.rolling.close()
