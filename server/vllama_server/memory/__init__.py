"""Memory advice: whether a model fits its GPUs, said before it is loaded.

- `check`: compares a model's directory with the visible devices.
- `shape`: dimensions of a model, from its config.json.
- `devices`: the visible NVIDIA devices and their memory.
- `advice`: needed and available memory in numbers, and the flag to change.
"""
