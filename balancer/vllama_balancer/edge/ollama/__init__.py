"""The Ollama dialect: the only place that has Ollama's JSON.

schema.py has the JSON of requests and replies, dialect.py the routes, errors.py the shape of errors.

- handlers.py serves /api/generate and /api/chat: generation_request.py (with options.py) translates the body into a
  generation, encoder.py (with timings.py) its events into chunks or one reply;
- it also serves the listings: listing.py makes /api/tags and /api/ps, show.py makes /api/show;
- embeddings.py serves /api/embed and /api/embeddings, management.py pull, delete, copy and create.
"""

from vllama_balancer.edge.ollama.dialect import DIALECT

__all__ = ["DIALECT"]
