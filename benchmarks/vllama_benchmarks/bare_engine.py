"""The bare engine as a program: the baseline of `vllama bench compare`.

    python -m vllama_benchmarks.bare_engine DIRECTORY [--engine-arg key=value …]

The first line of output is {"ready": true}. Each line of input is a request, {"id": …, "prompt": …, "max_tokens": …};
all run concurrently. Each answer is a line, {"id": …, "seconds": …, "ttft_seconds": …, "tokens": …,
"prompt_tokens": …}. The program ends with its input. bench/command_target.py is the other side.

The engine is configured as a worker's is and then used as in vLLM's own documents: one AsyncLLM, the tokenizer's chat
template, deltas out. Nothing else of the worker takes part. `--server-flags` prints, as JSON, the flags by which
vLLM's own server gets the same engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE_LIMIT_BYTES = 1 << 24
SEPARATE_FLAGS = ("model", "served_model_name")


def server_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Returns engine arguments as flags of vLLM's own server, without model and name."""
    flags: list[str] = []
    for key, value in arguments.items():
        flag = key.replace("_", "-")
        if value is None or key in SEPARATE_FLAGS:
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

    async def answer(self, request: Mapping[str, Any], arrived_at: float) -> dict[str, Any]:
        """Generates one answer, greedily and to its full length, and returns its times."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        messages = [{"role": "user", "content": request["prompt"]}]
        prompt = list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        sampling = SamplingParams(
            temperature=0, max_tokens=request["max_tokens"], ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )
        tokens, first_at = 0, None
        outputs = self._engine.generate(tokens_input(prompt_token_ids=prompt), sampling, str(request["id"]))
        async for output in outputs:
            first_at = first_at or time.perf_counter()
            tokens += len(output.outputs[0].token_ids)
        return {
            "id": request["id"],
            "seconds": time.perf_counter() - arrived_at,
            "ttft_seconds": None if first_at is None else first_at - arrived_at,
            "tokens": tokens,
            "prompt_tokens": len(prompt),
        }


async def serve(engine: BareEngine, reader: asyncio.StreamReader) -> None:
    """Answers every line until the input ends; a failed answer is a line with its error."""

    async def one(line: bytes, arrived_at: float) -> None:
        request = json.loads(line)
        try:
            _write(await engine.answer(request, arrived_at))
        except Exception as error:
            _write({"id": request["id"], "seconds": time.perf_counter() - arrived_at, "error": str(error)})

    _write({"ready": True})
    async with asyncio.TaskGroup() as answers:
        async for line in reader:
            answers.create_task(one(line, time.perf_counter()))


async def run(profile: EngineConfig) -> None:
    """Starts the engine, serves standard input, and ends the engine."""
    # vLLM reads the environment when it is imported, and main() has just set that.
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from vllama_server.vllm_adapter.cpu import bound_to_cores
    from vllama_server.vllm_adapter.loaded_engine import configure
    from vllama_server.vllm_adapter.zmq_cleanup import close_context

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


def _flags(profile: EngineConfig) -> list[str]:
    from vllm.platforms import current_platform

    from vllama_server.vllm_adapter.cpu import read_number_format
    from vllama_server.vllm_adapter.engine_config import engine_arguments
    from vllama_server.vllm_adapter.loaded_engine import configure

    arguments = engine_arguments(profile, on_cpu=current_platform.is_cpu(), cpu_dtype=read_number_format())
    arguments["kv_cache_memory_bytes"] = configure(profile).cache_config.kv_cache_memory_bytes
    return server_flags(arguments)


def _write(line: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vllama_benchmarks.bare_engine", description=__doc__)
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
    profile = EngineConfig(options.directory, engine_args=dict(one.split("=", 1) for one in options.engine_arg))
    if options.server_flags:
        print(json.dumps(_flags(profile)))
        return
    import uvloop  # as vLLM's own server and our worker do

    workspace = Workspace()
    # vLLM's processes put sockets and temporary files there, not all of which they remove.
    os.environ["VLLM_RPC_BASE_PATH"] = os.environ["TMPDIR"] = str(workspace.path)
    try:
        uvloop.run(run(profile))
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
