"""vLLM behind the Engine protocol; the only importer of vllm.

In the worker's process:

- `engine`: VllmEngine, from the first import to the last process; light to import.
- `engine_config`, `environment`, `preload`, `gc_pause`, `cpu`, `workspace`, `zmq_cleanup`: what a start needs: engine
  arguments, environment, early imports, cores and cache of a CPU, private directory, cleanup.
- `loaded_engine`: a running engine; imports vLLM. `model_description` derives what the model can do, `load_meter` its
  load.
- `generation`: one generation, with `prompts` and `chat` (rendering), `template_renderer` (templates of requests),
  `read_ahead`, `sampling`, `detokenizer` and `output_parser`;
  `embedding` for pooling models; `errors` translates vLLM's exceptions.
- `child_reports` and `start_advice`: progress and failures of a start, from the logs of vLLM's processes.

In vLLM's own processes: `child_plugin` and `parent_watch` (reports, end with the worker), `preloaded` (the fork
server), `cpu_worker` (seeds on a CPU). These four and `gc_pause` stay small, because every process imports them.
"""
