"""Listings have every key that some client reads unchecked."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.edge.ollama.listing import human_number
from vllama_balancer.fake_gateway import FakeGateway, model, presets
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    """Gets JSON."""
    async with http.get(path) as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        return await reply.json()


async def show(http: aiohttp.ClientSession, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Posts /api/show."""
    async with http.post("/api/show", json={"model": "smollm2:135m", **body}, headers=headers) as reply:
        assert reply.status == 200
        return await reply.json()


async def test_version_is_three_numbers(http: aiohttp.ClientSession) -> None:
    """Clients run int() on each part, and refuse what is older than 0.6.4."""
    version = (await get(http, "/api/version"))["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]


async def test_status_says_no_cloud(http: aiohttp.ClientSession) -> None:
    """The newer command line needs it."""
    assert await get(http, "/api/status") == {"cloud": {"disabled": True, "source": "env"}}


async def test_tags_lists_models_newest_first(serve: Serve) -> None:
    """Loaded or not, with the types that strict clients want."""
    old = model("old:1b", modified_at=datetime(2025, 1, 1, tzinfo=UTC), replicas=0, description=None)
    async with serve(FakeGateway(old, model())) as http:
        tags = (await get(http, "/api/tags"))["models"]
    assert [tag["name"] for tag in tags] == ["smollm2:135m", "old:1b"]
    assert tags[0]["model"] == tags[0]["name"]
    assert re.fullmatch(r"[0-9a-f]{64}", tags[0]["digest"])
    assert isinstance(tags[0]["size"], int)
    assert datetime.fromisoformat(tags[0]["modified_at"]).year == 2026
    assert tags[0]["capabilities"] == ["completion"]
    assert tags[0]["details"]["context_length"] == 2048
    assert tags[1]["details"]["family"] == "unknown"
    assert tags[1]["details"]["parent_model"] == ""


async def test_no_models_is_an_empty_list(serve: Serve) -> None:
    """Never null."""
    gateway = FakeGateway()
    gateway.entries.clear()
    async with serve(gateway) as http:
        assert await get(http, "/api/tags") == {"models": []}
        assert await get(http, "/api/ps") == {"models": []}


async def test_ps_lists_loaded_models_that_stay_longest_first(serve: Serve) -> None:
    """Pinned models expire in centuries, still within four-digit years."""
    soon = model("soon:1b", expires_at=datetime.now(UTC) + timedelta(minutes=5))
    async with serve(FakeGateway(soon, model("out:1b", replicas=0), model(replicas=2))) as http:
        models = (await get(http, "/api/ps"))["models"]
    assert [each["name"] for each in models] == ["smollm2:135m", "soon:1b"]
    assert 2300 < datetime.fromisoformat(models[0]["expires_at"]).year < 9999
    assert models[0]["size_vram"] == 0
    assert models[0]["context_length"] == 2048
    assert [each["replicas"] for each in models] == [2, 1]


async def test_a_model_on_a_gpu_is_all_in_its_memory(serve: Serve) -> None:
    """The command line derives "100% GPU" from it."""
    entry = model()
    assert entry.description is not None
    entry.description.device.kind = "cuda"
    async with serve(FakeGateway(entry)) as http:
        (loaded,) = (await get(http, "/api/ps"))["models"]
    assert loaded["size_vram"] == loaded["size"]


async def test_show_has_what_clients_read(http: aiohttp.ClientSession) -> None:
    """Architecture ties details and model_info together; objects and lists are never null."""
    reply = await show(http)
    info = reply["model_info"]
    family = info["general.architecture"]
    assert family == reply["details"]["family"] == "llama"
    assert [info[f"{family}.{key}"] for key in ("context_length", "embedding_length", "block_count")] == [2048, 576, 30]
    assert [key for key in info if "context_length" in key] == ["llama.context_length"]
    assert info["general.parameter_count"] == 134515008
    assert info["general.basename"] == "smollm2"
    assert reply["capabilities"] == ["completion"]
    assert reply["template"]
    assert reply["details"]["parameter_size"] == "134.52M"
    assert {"license", "modelfile", "parameters", "system", "modified_at"} <= set(reply)
    assert "tensors" not in reply
    assert "messages" not in reply


async def test_show_of_an_undescribed_model_still_has_its_objects(serve: Serve) -> None:
    """Clients crash on null."""
    async with serve(FakeGateway(model(description=None))) as http:
        reply = await show(http)
    assert reply["model_info"]["unknown.context_length"] == 0
    assert reply["capabilities"] == []
    assert reply["template"]


async def test_show_lists_parameters_line_by_line(serve: Serve) -> None:
    """Name padded to 30 columns, strings quoted, one line per stop text; no blank line."""
    entry = model(
        sampling=generation_pb2.Sampling(temperature=0.2, top_k=50),
        presets=presets("Be brief.", stop=["<|a|>", 'b"'], top_k=20),
        license="Apache-2.0",
    )
    async with serve(FakeGateway(entry)) as http:
        reply = await show(http, options={"num_ctx": 4096})
    assert reply["parameters"].splitlines() == [
        "temperature                    0.2",
        "top_k                          20",
        'stop                           "<|a|>"',
        'stop                           "b\\""',
    ]
    assert reply["system"] == "Be brief."
    for line in ("FROM smollm2:135m", 'SYSTEM """Be brief."""', "PARAMETER num_ctx 4096", "PARAMETER temperature 0.2"):
        assert line in reply["modelfile"].splitlines()
    assert reply["license"] == "Apache-2.0"


async def test_show_echoes_what_is_asked(http: aiohttp.ClientSession) -> None:
    """`name` is the old key; Copilot shows the basename; verbose adds tensors."""
    assert (await show(http, model="", name="SMOLLM2:135M"))["details"]["family"] == "llama"
    copilot = {"User-Agent": "GitHubCopilotChat/0.20"}
    assert (await show(http, headers=copilot))["model_info"]["general.basename"] == "smollm2:135m"
    assert (await show(http, verbose=True))["tensors"] == []


async def test_show_names_all_capabilities(serve: Serve) -> None:
    """In Ollama's words; a model that fills gaps says so in its template."""
    every = [value for value in worker_pb2.Capability.values() if value]
    async with serve(FakeGateway(model(capabilities=every))) as http:
        reply = await show(http)
    assert reply["capabilities"] == ["completion", "tools", "insert", "vision", "embedding", "thinking"]
    assert ".Suffix" in reply["template"]


async def test_a_simulated_engine_says_so(serve: Serve) -> None:
    """A simulation is recognisable."""
    entry = model()
    assert entry.description is not None
    entry.description.simulated = True
    entry.description.model_info.Clear()
    async with serve(FakeGateway(entry)) as http:
        reply = await show(http)
    assert reply["model_info"]["vllama.simulated"] is True
    assert reply["details"]["family"] == "simulated"


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1500, "2K"), (134515008, "134.52M"), (1_000_000, "1M"), (7_615_616_512, "7.6B"), (10**9, "1B")],
)
def test_numbers_for_people(count: int, text: str) -> None:
    """As Ollama writes them."""
    assert human_number(count) == text
