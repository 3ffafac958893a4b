"""The bare engine as a program: what a chain around it is measured against.

    python -m vllama_server.vllm_adapter.bare DIRECTORY [--engine-arg key=value …]

It reads a request per line of standard input, {"id": …, "prompt": …, "max_tokens": …}, runs all of them
concurrently as they come, and writes a line per answer, {"id": …, "seconds": …, "ttft_seconds": …,
"tokens": …, "prompt_tokens": …}; {"ready": true} first. It ends with its input. `vllama bench --bare`
speaks this.

The engine is configured as a worker's is and then used as vLLM's own documents say: one AsyncLLM, the
tokenizer's chat template, deltas out. Nothing else of the worker takes part. `--server-flags` prints, as
JSON, the flags by which vLLM's own server gets the same engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from vllama_server.vllm_adapter.profile import EngineProfile
from vllama_server.vllm_adapter.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE_LIMIT_BYTES = 1 << 24
GIVEN_ELSEWHERE = ("model", "served_model_name")


def server_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Writes engine arguments as flags of vLLM's own server; model and name are the caller's."""
    flags: list[str] = []
    for key, value in arguments.items():
        flag = key.replace("_", "-")
        if value is None or key in GIVEN_ELSEWHERE:
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


class BareEngine:
    """One AsyncLLM and the tokenizer of its model."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._tokenizer = engine.renderer.get_tokenizer()

    async def answer(self, order: Mapping[str, Any], arrived_at: float) -> dict[str, Any]:
        """Generates one answer, greedily and to its full length, and says how long that took."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        messages = [{"role": "user", "content": order["prompt"]}]
        prompt = list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        sampling = SamplingParams(
            temperature=0, max_tokens=order["max_tokens"], ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )
        tokens, first_at = 0, None
        outputs = self._engine.generate(tokens_input(prompt_token_ids=prompt), sampling, str(order["id"]))
        async for output in outputs:
            first_at = first_at or time.perf_counter()
            tokens += len(output.outputs[0].token_ids)
        return {
            "id": order["id"],
            "seconds": time.perf_counter() - arrived_at,
            "ttft_seconds": None if first_at is None else first_at - arrived_at,
            "tokens": tokens,
            "prompt_tokens": len(prompt),
        }


async def serve(engine: BareEngine, reader: asyncio.StreamReader) -> None:
    """Answers every line until the input ends; a failed answer is a line with its error."""

    async def one(line: bytes, arrived_at: float) -> None:
        order = json.loads(line)
        try:
            _write(await engine.answer(order, arrived_at))
        except Exception as error:
            _write({"id": order["id"], "seconds": time.perf_counter() - arrived_at, "error": str(error)})

    _write({"ready": True})
    async with asyncio.TaskGroup() as answers:
        async for line in reader:
            answers.create_task(one(line, time.perf_counter()))


async def run(profile: EngineProfile) -> None:
    """Starts the engine, serves standard input, and ends the engine."""
    # vLLM is imported here because it reads the environment then, and main() has just set that.
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from vllama_server.vllm_adapter.computing import bound_to_cores
    from vllama_server.vllm_adapter.contexts import close_context
    from vllama_server.vllm_adapter.loaded import configure

    config = configure(profile)
    with bound_to_cores(config):
        engine = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)
    try:
        await engine.get_supported_tasks()
        reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            await serve(BareEngine(engine), reader)
        finally:
            transport.close()
    finally:
        engine.shutdown()
        close_context(engine)


def _flags(profile: EngineProfile) -> list[str]:
    from vllm.platforms import current_platform

    from vllama_server.vllm_adapter.loaded import configure
    from vllama_server.vllm_adapter.processor import read_number_format
    from vllama_server.vllm_adapter.profile import engine_arguments

    arguments = engine_arguments(profile, on_cpu=current_platform.is_cpu(), cpu_dtype=read_number_format())
    arguments["kv_cache_memory_bytes"] = configure(profile).cache_config.kv_cache_memory_bytes
    return server_flags(arguments)


def _write(line: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the flags and runs."""
    parser = argparse.ArgumentParser(prog="python -m vllama_server.vllm_adapter.bare", description=__doc__)
    parser.add_argument("directory", metavar="DIRECTORY", help="where the weights lie")
    parser.add_argument("--engine-arg", action="append", default=[], metavar="KEY=VALUE", help="as of a worker")
    parser.add_argument("--server-flags", action="store_true", help="print flags for vLLM's own server and end")
    options = parser.parse_args(arguments)
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    for name, value in (
        ("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),
        ("VLLM_LOGGING_STREAM", "ext://sys.stderr"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("VLLM_CPU_OMP_THREADS_BIND", cores),
    ):
        os.environ.setdefault(name, value)
    profile = EngineProfile(options.directory, engine_args=dict(one.split("=", 1) for one in options.engine_arg))
    if options.server_flags:
        print(json.dumps(_flags(profile)))
        return
    import uvloop  # as vLLM's own server and our worker do

    workspace = Workspace()
    # There vLLM's processes put their sockets and temporary files, not all of which they remove.
    os.environ["VLLM_RPC_BASE_PATH"] = os.environ["TMPDIR"] = str(workspace.path)
    try:
        uvloop.run(run(profile))
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
