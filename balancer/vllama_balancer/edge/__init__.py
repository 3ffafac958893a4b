"""The HTTP API: Ollama's, OpenAI's and Anthropic's dialects over one Gateway.

In comes HTTP; out go Gateway calls in the messages of the protos. A request passes:

- server.py: the listening socket and one client's connection; config.py holds the settings;
- app.py, which puts the middlewares together, from the outside in: access_log.py (with request_stats.py),
  error_middleware.py (with http_errors.py), security.py; dialect.py routes untidy paths;
- a dialect: ollama/, openai/ or anthropic/. Each decodes, translates, dispatches and encodes, and imports no other;
  wire/ holds what their translations share: protos, and no dialect's JSON;
- context.py, the base of every handler: body.py decodes and encodes JSON, model_lookup.py finds the model,
  streaming.py writes streams; fixed_models.py stands in where models are neither loaded nor installed.

operations.py answers operators: /health, /metrics (metrics.py), /fleet and the page of dashboard/.
"""
