"""The seam between services and engines, which makes the simulated engine and vLLM interchangeable.

The servicers know only this package, so nothing outside `vllm_adapter` can come to depend on vLLM.
"""
