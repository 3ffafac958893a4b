"""The only importer of vllm: AsyncLLMEngine behind the Engine protocol."""
