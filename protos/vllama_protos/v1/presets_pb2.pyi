from vllama_protos.v1 import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelPresets(_message.Message):
    __slots__ = ("system", "messages", "template", "options")
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    system: str
    messages: _containers.RepeatedCompositeFieldContainer[_generation_pb2.Message]
    template: str
    options: _containers.RepeatedCompositeFieldContainer[ModelOption]
    def __init__(self, system: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[_generation_pb2.Message, _Mapping]]] = ..., template: _Optional[str] = ..., options: _Optional[_Iterable[_Union[ModelOption, _Mapping]]] = ...) -> None: ...

class ModelOption(_message.Message):
    __slots__ = ("name", "integer", "number", "flag", "text", "texts", "json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    integer: int
    number: float
    flag: bool
    text: str
    texts: OptionTexts
    json: str
    def __init__(self, name: _Optional[str] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ..., text: _Optional[str] = ..., texts: _Optional[_Union[OptionTexts, _Mapping]] = ..., json: _Optional[str] = ...) -> None: ...

class OptionTexts(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...
