import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from vllama_protos.v1 import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Capability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAPABILITY_UNSPECIFIED: _ClassVar[Capability]
    CAPABILITY_COMPLETION: _ClassVar[Capability]
    CAPABILITY_CHAT: _ClassVar[Capability]
    CAPABILITY_TOOLS: _ClassVar[Capability]
    CAPABILITY_THINKING: _ClassVar[Capability]
    CAPABILITY_VISION: _ClassVar[Capability]
    CAPABILITY_INSERT: _ClassVar[Capability]
    CAPABILITY_EMBEDDING: _ClassVar[Capability]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_FAILED: _ClassVar[WorkerState]
    WORKER_STATE_SLEEPING: _ClassVar[WorkerState]

class StartPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    START_PHASE_UNSPECIFIED: _ClassVar[StartPhase]
    START_PHASE_RESOLVE: _ClassVar[StartPhase]
    START_PHASE_DOWNLOAD: _ClassVar[StartPhase]
    START_PHASE_LOAD: _ClassVar[StartPhase]
    START_PHASE_COMPILE: _ClassVar[StartPhase]
    START_PHASE_WARM_UP: _ClassVar[StartPhase]
CAPABILITY_UNSPECIFIED: Capability
CAPABILITY_COMPLETION: Capability
CAPABILITY_CHAT: Capability
CAPABILITY_TOOLS: Capability
CAPABILITY_THINKING: Capability
CAPABILITY_VISION: Capability
CAPABILITY_INSERT: Capability
CAPABILITY_EMBEDDING: Capability
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_FAILED: WorkerState
WORKER_STATE_SLEEPING: WorkerState
START_PHASE_UNSPECIFIED: StartPhase
START_PHASE_RESOLVE: StartPhase
START_PHASE_DOWNLOAD: StartPhase
START_PHASE_LOAD: StartPhase
START_PHASE_COMPILE: StartPhase
START_PHASE_WARM_UP: StartPhase

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("worker", "boot_id", "models", "capabilities", "context_length", "max_streams", "kv_cache_tokens", "block_tokens", "device", "versions", "simulated", "model_info", "can_sleep", "can_relay")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_INFO_FIELD_NUMBER: _ClassVar[int]
    CAN_SLEEP_FIELD_NUMBER: _ClassVar[int]
    CAN_RELAY_FIELD_NUMBER: _ClassVar[int]
    worker: str
    boot_id: str
    models: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.RepeatedScalarFieldContainer[Capability]
    context_length: int
    max_streams: int
    kv_cache_tokens: int
    block_tokens: int
    device: Device
    versions: _containers.ScalarMap[str, str]
    simulated: bool
    model_info: ModelInfo
    can_sleep: bool
    can_relay: bool
    def __init__(self, worker: _Optional[str] = ..., boot_id: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Iterable[_Union[Capability, str]]] = ..., context_length: _Optional[int] = ..., max_streams: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., block_tokens: _Optional[int] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., versions: _Optional[_Mapping[str, str]] = ..., simulated: _Optional[bool] = ..., model_info: _Optional[_Union[ModelInfo, _Mapping]] = ..., can_sleep: _Optional[bool] = ..., can_relay: _Optional[bool] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("kind", "name", "memory_bytes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    memory_bytes: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("architecture", "parameter_count", "size_bytes", "embedding_length", "block_count", "head_count", "head_count_kv", "vocabulary_size", "trained_context_length", "quantization", "chat_template", "default_sampling", "tool_parser", "reasoning_parser")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_COUNT_KV_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRAINED_CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOOL_PARSER_FIELD_NUMBER: _ClassVar[int]
    REASONING_PARSER_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    parameter_count: int
    size_bytes: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    vocabulary_size: int
    trained_context_length: int
    quantization: str
    chat_template: str
    default_sampling: _generation_pb2.Sampling
    tool_parser: str
    reasoning_parser: str
    def __init__(self, architecture: _Optional[str] = ..., parameter_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., embedding_length: _Optional[int] = ..., block_count: _Optional[int] = ..., head_count: _Optional[int] = ..., head_count_kv: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., trained_context_length: _Optional[int] = ..., quantization: _Optional[str] = ..., chat_template: _Optional[str] = ..., default_sampling: _Optional[_Union[_generation_pb2.Sampling, _Mapping]] = ..., tool_parser: _Optional[str] = ..., reasoning_parser: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("worker", "boot_id", "state", "phase", "progress", "failure", "running", "waiting", "kv_cache_use", "queued_prompt_tokens", "prefill_tokens_per_second", "decode_tokens_per_second", "step", "prefix_hit_rate", "last_step_age", "uptime")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_AGE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    boot_id: str
    state: WorkerState
    phase: StartPhase
    progress: float
    failure: str
    running: int
    waiting: int
    kv_cache_use: float
    queued_prompt_tokens: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    step: _duration_pb2.Duration
    prefix_hit_rate: float
    last_step_age: _duration_pb2.Duration
    uptime: _duration_pb2.Duration
    def __init__(self, worker: _Optional[str] = ..., boot_id: _Optional[str] = ..., state: _Optional[_Union[WorkerState, str]] = ..., phase: _Optional[_Union[StartPhase, str]] = ..., progress: _Optional[float] = ..., failure: _Optional[str] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_cache_use: _Optional[float] = ..., queued_prompt_tokens: _Optional[int] = ..., prefill_tokens_per_second: _Optional[float] = ..., decode_tokens_per_second: _Optional[float] = ..., step: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prefix_hit_rate: _Optional[float] = ..., last_step_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("deadline",)
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    deadline: _duration_pb2.Duration
    def __init__(self, deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("remaining_streams",)
    REMAINING_STREAMS_FIELD_NUMBER: _ClassVar[int]
    remaining_streams: int
    def __init__(self, remaining_streams: _Optional[int] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SleepRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SleepResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WakeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WakeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RelayRequest(_message.Message):
    __slots__ = ("stream", "start", "cancel", "ready")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    stream: int
    start: RelayStart
    cancel: RelayCancel
    ready: RelayReady
    def __init__(self, stream: _Optional[int] = ..., start: _Optional[_Union[RelayStart, _Mapping]] = ..., cancel: _Optional[_Union[RelayCancel, _Mapping]] = ..., ready: _Optional[_Union[RelayReady, _Mapping]] = ...) -> None: ...

class RelayStart(_message.Message):
    __slots__ = ("request", "timeout")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    timeout: _duration_pb2.Duration
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RelayCancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RelayReady(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RelayResponse(_message.Message):
    __slots__ = ("events", "needs_no_ready")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_NO_READY_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RelayEvent]
    needs_no_ready: bool
    def __init__(self, events: _Optional[_Iterable[_Union[RelayEvent, _Mapping]]] = ..., needs_no_ready: _Optional[bool] = ...) -> None: ...

class RelayEvent(_message.Message):
    __slots__ = ("stream", "response", "status")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    stream: int
    response: _generation_pb2.GenerateResponse
    status: bytes
    def __init__(self, stream: _Optional[int] = ..., response: _Optional[_Union[_generation_pb2.GenerateResponse, _Mapping]] = ..., status: _Optional[bytes] = ...) -> None: ...
