"""The interface between services and engines.

- `protocol`: Engine, what every engine does. Requests and replies are the wire's own messages, already validated by
  `wire.request_validation`.
- `events`: builders of the messages that engines yield for a generation.

`fake_engine` and `vllm_adapter` implement it. Services import only this package, so nothing outside the adapter depends
on vLLM.
"""
