"""Which devices CUDA would show, on a fake of NVIDIA's library."""

from types import SimpleNamespace

import pytest

from vllama_server.memory.devices import visible_devices


class NoSuchThing(Exception):
    """What the library raises."""


class FakeNvml:
    """Cards and their MIG instances, in memory."""

    NVMLError = NoSuchThing

    def __init__(self, *cards, driver=True):
        self.cards = cards
        self.driver = driver
        self.sessions = 0

    def nvmlInit(self):
        if not self.driver:
            raise NoSuchThing
        self.sessions += 1

    def nvmlShutdown(self):
        self.sessions -= 1

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle):
        return handle.uuid

    def nvmlDeviceGetName(self, handle):
        return handle.name.encode()

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=handle.total, free=handle.total - 1)

    def nvmlDeviceGetMigMode(self, handle):
        if handle.instances is None:
            raise NoSuchThing
        return bool(handle.instances), 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index >= len(handle.instances):
            raise NoSuchThing
        return handle.instances[index]


def device(name, uuid, total, instances=None):
    """A card, or one of its instances."""
    return SimpleNamespace(name=name, uuid=uuid, total=total, instances=instances)


def names(nvml, visible):
    """The names of the devices that are visible."""
    found = [one.name for one in visible_devices(nvml, visible)]
    assert nvml.sessions == 0
    return found


@pytest.fixture
def two():
    """Two plain cards."""
    return FakeNvml(device("A", "GPU-aaa1", 24), device("B", "GPU-bbb2", 80))


@pytest.fixture
def sliced():
    """A plain card and one that is cut in two."""
    slices = [device("B0", "MIG-0000", 10), device("B1", "MIG-1111", 20)]
    return FakeNvml(device("A", "GPU-aaa1", 24, []), device("B", "GPU-bbb2", 80, slices))


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["A", "B"]),
        ("0", ["A"]),
        ("1,0", ["B", "A"]),
        (" 1 ", ["B"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["B"]),
        ("GPU-bbb2", ["B"]),
        ("GPU-b,GPU-a", ["B", "A"]),
        ("GPU-", []),
        ("GPU-zzz", []),
        ("nonsense", []),
    ],
)
def test_cuda_visible_devices_decides(two, visible, expected):
    """Indices, UUIDs and beginnings of them; the first entry that names nothing ends the list."""
    assert names(two, visible) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["A", "B0"]),
        ("1", ["B0"]),
        ("MIG-1111", ["B1"]),
        ("MIG-1", ["B1"]),
        ("GPU-bbb2", ["B0"]),
        ("MIG-", []),
        ("MIG-1111,0", ["B1", "A"]),
    ],
)
def test_mig_instances_are_devices_of_their_own(sliced, visible, expected):
    """A sliced card is used through an instance, the first one unless another is named."""
    assert names(sliced, visible) == expected


def test_memory_is_that_of_the_instance(sliced):
    """Not that of the whole card."""
    (instance,) = visible_devices(sliced, "MIG-1111")
    assert (instance.total_bytes, instance.free_bytes) == (20, 19)


def test_without_a_driver_there_is_no_device():
    """That is no error."""
    assert visible_devices(FakeNvml(driver=False), None) == []
