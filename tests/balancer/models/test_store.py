"""The store lists, finds, copies and removes models, beside other processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.fake_gateway import presets
from vllama_balancer.models.store import Store, delete_tree, directory_size, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

READER = """
import sys, pathlib
from vllama_balancer.models.store import Store
with Store(pathlib.Path(sys.argv[1])).locked("k"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_registered_model_is_found_by_any_spelling(store, installed) -> None:
    """Names are compared as Ollama compares them, and survive a new process."""
    model = installed("smollm2:135m", license="Apache", presets=presets(stop=["a"]))
    again = Store(store.directory)
    assert again.find("SmolLM2:135M") == again.find("library/smollm2:135m") == model
    assert again.find("smollm2") is None


def test_models_are_listed_newest_first(store, installed) -> None:
    """The newest comes first, as in /api/tags."""
    installed("old", day=1)
    installed("new", day=2)
    assert [model.name for model in store.models()] == ["new", "old"]


def test_a_model_without_its_weights_is_not_found(store, installed) -> None:
    """After weights were deleted by hand, the name installs the model again."""
    model = installed("m:a")
    delete_tree(model.weights)
    assert store.find("m:a") is None


def test_an_unreadable_manifest_is_ignored(store, installed) -> None:
    """One damaged file does not hide the others."""
    installed("good")
    write_atomically(store.directory / "manifests" / "bad.json", b"{")
    assert [model.name for model in store.models()] == ["good"]


def test_a_copy_shares_weights_and_digest(store, installed) -> None:
    """An exact copy is the same model under another name."""
    original = installed("m:a")
    copy = store.copy(original, "mine")
    assert (copy.name, copy.digest, copy.weights) == ("mine:latest", original.digest, original.weights)


def test_presets_change_the_digest(store, installed) -> None:
    """An alias that behaves differently has a digest of its own, 64 hex digits long."""
    original = installed("m:a")
    strict = store.copy(original, "strict", presets=presets("Be brief."), parent="m:a")
    assert strict.digest != original.digest and len(strict.digest) == 64
    assert Store(store.directory).find("strict") == strict


def test_weights_go_with_their_last_name(store, installed) -> None:
    """Removing one of two names keeps the weights, removing the other deletes them."""
    original = installed("m:a")
    store.copy(original, "other")
    assert store.remove("m:a") is True
    assert original.weights.is_dir()
    assert store.remove("other") is True
    assert list(store.weights_directory.iterdir()) == []


def test_weights_outside_the_store_are_never_deleted(store, installed, tmp_path: Path) -> None:
    """Only weights in the store are deleted."""
    outside = tmp_path / "mine"
    outside.mkdir()
    model = installed("m:a")
    store.register(replace(model, name="local:latest", weights=outside))
    store.remove("local")
    assert outside.is_dir()


def test_removing_an_unknown_name_returns_false(store) -> None:
    """The caller answers 404."""
    assert store.remove("nothing") is False


def test_a_lock_excludes_other_processes_and_dies_with_its_holder(store) -> None:
    """Only one process holds the lock at a time; the end of a killed holder releases it."""
    command = [sys.executable, "-c", READER, str(store.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"locked\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.5)
            first.kill()
            assert second.stdout.readline() == b"locked\n"
            second.stdin.close()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails in the middle changes nothing and leaves no partial file."""
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text, not bytes")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_directory_size_counts_all_files(tmp_path: Path) -> None:
    """Sizes are those of the files, in all depths."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"4567")
    assert directory_size(tmp_path) == 7
