"""A great import is not held up by the collector, which works again afterwards."""

from __future__ import annotations

import gc

import pytest

from vllama_server.vllm_adapter.gc_pause import gc_paused


def test_nothing_is_collected_meanwhile_and_what_came_is_kept() -> None:
    """What has been imported is never looked at again."""
    kept = gc.get_freeze_count()
    try:
        with gc_paused():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= kept + len(made)
    finally:
        gc.unfreeze()


def test_a_failed_import_leaves_the_collector_on() -> None:
    """The worker goes on for as long as it takes to say so."""
    with pytest.raises(ImportError), gc_paused():
        raise ImportError
    gc.unfreeze()
    assert gc.isenabled()
