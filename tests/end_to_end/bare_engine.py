"""Prints what vLLM itself answers, as JSON: the reference that the whole chain must equal.

`python bare_engine.py MODEL_DIRECTORY MAX_TOKENS < chats.json`, chats being a list of message
lists. The engine is built by hand, with nothing of vllama in between, in float32 so that the
make-up of a batch does not change greedy tokens.
"""

import asyncio
import json
import os
import sys


async def answer(directory: str, max_tokens: int, chats: list[list[dict[str, str]]]) -> list[dict[str, object]]:
    """Generates one greedy answer after the other, alone in the batch."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.inputs import tokens_input
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=directory, dtype="float32", enforce_eager=True, max_model_len=2048, max_num_seqs=4, seed=0
    )
    config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    engine = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)
    tokenizer = engine.renderer.get_tokenizer()
    answers = []
    try:
        for number, messages in enumerate(chats):
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
            async for output in engine.generate(tokens_input(prompt_token_ids=list(prompt)), sampling, str(number)):
                last = output
            completion = last.outputs[0]
            answers.append({"text": completion.text, "token_ids": list(completion.token_ids), "prompt": len(prompt)})
    finally:
        engine.shutdown()
    return answers


if __name__ == "__main__":
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    result = asyncio.run(answer(sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)))
    print(json.dumps(result))
