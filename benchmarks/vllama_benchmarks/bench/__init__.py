"""`vllama bench`: load tests that measure one server (target) against others.

- In: `command` and its `flags`; `specification` reads targets ("name=kind:address") and watched processes.
- `comparison` starts one model behind every door, for `vllama bench compare`.
- `plan` runs every concurrency, repeat and target in turn; `interleaved` alternates targets with every request.
- A `target` opens sessions: `http_target` (over the lean client `http1`), `grpc_target`, `command_target`; `access` is
  their key and TLS.
- `workload` draws the requests; a `sample` is the result of one request, a `cell` that of one run,
  `watch` its CPU time.
- Out: `summary` computes lines and ratios; `tables` prints them, `record` is the JSON, `page` (with `chart`) the HTML.
  `readme` writes kept records into a Markdown page.
"""
