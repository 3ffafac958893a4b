"""The messages about the worker itself."""

from vllama_protos.v1 import generation_pb2
from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.protocol import EngineLoad
from vllama_server.identity import WorkerIdentity
from vllama_server.lifecycle import Lifecycle
from vllama_server.wire import responses

IDENTITY = WorkerIdentity("w", ("m",), "boot")
ENGINE = pb.DescribeResponse(
    capabilities=sorted(pb.Capability.values())[1:],
    context_length=4096,
    max_streams=64,
    kv_cache_tokens=2**40,
    block_tokens=16,
    device=pb.Device(kind="cuda", name="GPU", memory_bytes=24 * 2**30),
    versions={"vllm": "0.32.0"},
    can_sleep=True,
    model_info=pb.ModelInfo(architecture="llama", default_sampling=generation_pb2.Sampling(temperature=0.0, top_k=50)),
)


def test_a_description_is_identity_and_engine():
    """Every field of the engine's description is there, beside the worker's own."""
    message = responses.description(IDENTITY, {"vllama": "1"}, ENGINE)
    assert (message.worker, message.boot_id, list(message.models), message.can_relay) == ("w", "boot", ["m"], True)
    assert dict(message.versions) == {"vllama": "1", "vllm": "0.32.0"}
    for field in ("capabilities", "context_length", "max_streams", "kv_cache_tokens", "block_tokens", "device"):
        assert getattr(message, field) == getattr(ENGINE, field)
    assert (message.can_sleep, message.model_info) == (True, ENGINE.model_info)
    assert message.model_info.default_sampling.HasField("temperature")
    assert not message.model_info.default_sampling.HasField("top_p")


def test_the_engine_is_not_changed_by_a_description():
    """It describes itself once, and every caller gets a message of its own."""
    before = ENGINE.SerializeToString(deterministic=True)
    responses.description(IDENTITY, {"vllama": "1"}, ENGINE).models.append("x")
    assert ENGINE.SerializeToString(deterministic=True) == before


def test_every_state_is_reported():
    """Phase and progress only while the worker starts."""
    lifecycle = Lifecycle()
    lifecycle.set_progress(pb.START_PHASE_COMPILE, 0.5)
    for state in pb.WorkerState.values()[1:]:
        lifecycle.state = state
        message = responses.report(IDENTITY, lifecycle, EngineLoad(), 1.0)
        is_starting = state == pb.WORKER_STATE_STARTING
        assert message.state == state
        assert (message.phase, message.progress) == ((pb.START_PHASE_COMPILE, 0.5) if is_starting else (0, 0))
