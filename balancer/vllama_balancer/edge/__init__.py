"""The HTTP front door: Ollama's, OpenAI's and Anthropic's APIs over one gateway.

A request passes, from the outside in:

- the socket: serving.py binds it, connection.py minds one client's connection;
- the middlewares, put together by app.py: access_log.py (with stats.py and client_address.py), faults.py (with
  statuses.py), guard.py, authentication.py; untidy paths find their way through paths.py;
- a dialect (dialect.py): ollama/, openai/ or anthropic/, each of which decodes, translates, dispatches and encodes, and
  knows nothing of the others; what their translations share is in wire/, which knows the protos and no JSON of anybody;
- edge.py, on which every handler stands: bodies.py and encoding.py read, requested.py finds the model, limits.py bounds
  each client, streaming.py writes; fixed_models.py stands in where nobody loads or installs models.

operations.py has what operators ask: /health, /metrics, /fleet (fleet_json.py, metrics.py), and the page of page/.
config.py is what the door is told at its start.
"""
