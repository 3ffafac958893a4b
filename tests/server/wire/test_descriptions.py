"""What a worker says of itself, on the wire."""

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.description import Capability, Device, EngineDescription, ModelInfo
from vllama_server.engine.protocol import StartPhase
from vllama_server.engine.requests import Sampling
from vllama_server.identity import Identity
from vllama_server.lifecycle import State
from vllama_server.wire import descriptions

DESCRIPTION = EngineDescription(
    capabilities=frozenset(Capability),
    context_length=4096,
    max_streams=64,
    kv_cache_tokens=2**40,
    block_tokens=16,
    device=Device("cuda", "GPU", 24 * 2**30),
    versions={"vllm": "0.32.0"},
    model_info=ModelInfo(
        architecture="llama",
        parameter_count=135_000_000,
        size_bytes=2**33,
        embedding_length=576,
        block_count=30,
        head_count=9,
        head_count_kv=3,
        vocabulary_size=49_152,
        trained_context_length=8192,
        quantization="BF16",
        chat_template="{{ x }}",
        default_sampling=Sampling(temperature=0.0, top_k=50),
        tool_parser="hermes",
        reasoning_parser="qwen3",
    ),
)


def test_a_description_arrives_whole():
    """No field of the engine's description is lost."""
    message = descriptions.description(Identity("w", ("m",), "boot"), {"vllama": "1"}, DESCRIPTION)
    assert len(message.capabilities) == len(Capability)
    assert (message.context_length, message.max_streams) == (4096, 64)
    assert (message.kv_cache_tokens, message.block_tokens) == (2**40, 16)
    assert message.device == pb.Device(kind="cuda", name="GPU", memory_bytes=24 * 2**30)
    assert dict(message.versions) == {"vllama": "1", "vllm": "0.32.0"}
    for field in pb.ModelInfo.DESCRIPTOR.fields:
        if field.name != "default_sampling":
            assert getattr(message.model_info, field.name) == getattr(DESCRIPTION.model_info, field.name)


def test_default_sampling_keeps_unset_apart_from_zero():
    """A greedy default is not an absent one."""
    message = descriptions.default_sampling(Sampling(temperature=0.0))
    assert message.HasField("temperature")
    assert not message.HasField("top_p")


def test_every_value_has_its_counterpart():
    """No capability, state or phase of the engine is without a name on the wire."""
    for kind, table in ((Capability, descriptions.CAPABILITIES), (State, descriptions.STATES)):
        assert set(table) == set(kind)
    assert set(descriptions.PHASES) == set(StartPhase)
    assert len(set(descriptions.CAPABILITIES.values())) == len(pb.Capability.values()) - 1
    assert len(set(descriptions.STATES.values())) == len(pb.WorkerState.values()) - 1
    assert len(set(descriptions.PHASES.values())) == len(pb.StartPhase.values()) - 1
