import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from vllama_protos.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UnloadOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNLOAD_OUTCOME_UNSPECIFIED: _ClassVar[UnloadOutcome]
    UNLOAD_OUTCOME_NOT_LOADED: _ClassVar[UnloadOutcome]
    UNLOAD_OUTCOME_UNLOADED: _ClassVar[UnloadOutcome]
    UNLOAD_OUTCOME_WHEN_IDLE: _ClassVar[UnloadOutcome]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_WAITING: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_LOADED: _ClassVar[ModelState]
    MODEL_STATE_LEAVING: _ClassVar[ModelState]
    MODEL_STATE_SLEEPING: _ClassVar[ModelState]
UNLOAD_OUTCOME_UNSPECIFIED: UnloadOutcome
UNLOAD_OUTCOME_NOT_LOADED: UnloadOutcome
UNLOAD_OUTCOME_UNLOADED: UnloadOutcome
UNLOAD_OUTCOME_WHEN_IDLE: UnloadOutcome
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_WAITING: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_LOADED: ModelState
MODEL_STATE_LEAVING: ModelState
MODEL_STATE_SLEEPING: ModelState

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers", "queued_requests", "models", "loads_on_demand")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LOADS_ON_DEMAND_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    queued_requests: int
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    loads_on_demand: bool
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., queued_requests: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., loads_on_demand: _Optional[bool] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("model", "state", "workers", "requests", "pinned")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    model: str
    state: ModelState
    workers: _containers.RepeatedScalarFieldContainer[str]
    requests: int
    pinned: bool
    def __init__(self, model: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., workers: _Optional[_Iterable[str]] = ..., requests: _Optional[int] = ..., pinned: _Optional[bool] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("name", "address", "description", "report", "available", "reason", "leases", "restarts", "pid", "retry_in", "time_to_first_token_p50", "time_to_first_token_p99", "deaths", "last_death")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RETRY_IN_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_P50_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_P99_FIELD_NUMBER: _ClassVar[int]
    DEATHS_FIELD_NUMBER: _ClassVar[int]
    LAST_DEATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    description: _worker_pb2.DescribeResponse
    report: _worker_pb2.WorkerReport
    available: bool
    reason: str
    leases: int
    restarts: int
    pid: int
    retry_in: _duration_pb2.Duration
    time_to_first_token_p50: _duration_pb2.Duration
    time_to_first_token_p99: _duration_pb2.Duration
    deaths: int
    last_death: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., description: _Optional[_Union[_worker_pb2.DescribeResponse, _Mapping]] = ..., report: _Optional[_Union[_worker_pb2.WorkerReport, _Mapping]] = ..., available: _Optional[bool] = ..., reason: _Optional[str] = ..., leases: _Optional[int] = ..., restarts: _Optional[int] = ..., pid: _Optional[int] = ..., retry_in: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_token_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_token_p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., deaths: _Optional[int] = ..., last_death: _Optional[str] = ...) -> None: ...

class WatchFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker", "deadline")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    deadline: _duration_pb2.Duration
    def __init__(self, worker: _Optional[str] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("remaining_streams",)
    REMAINING_STREAMS_FIELD_NUMBER: _ClassVar[int]
    remaining_streams: int
    def __init__(self, remaining_streams: _Optional[int] = ...) -> None: ...

class UndrainWorkerRequest(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: str
    def __init__(self, worker: _Optional[str] = ...) -> None: ...

class UndrainWorkerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestartWorkersRequest(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, workers: _Optional[_Iterable[str]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("model", "outcome")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    model: str
    outcome: UnloadOutcome
    def __init__(self, model: _Optional[str] = ..., outcome: _Optional[_Union[UnloadOutcome, str]] = ...) -> None: ...
