"""The OpenAI dialect: OpenAI's JSON to and from the messages of the protos.

dialect.py has the routes, errors.py the shape of errors, handlers.py the handlers, choices (`n`) and model listings.

- /v1/chat/completions: chat_request.py with chat_messages.py, chat_reply.py;
- /v1/completions: completions.py;
- /v1/responses: responses_request.py, responses_reply.py with responses_items.py;
- /v1/embeddings: embeddings.py;
- shared: sampling.py (with reasoning efforts and output formats), reply_fields.py (identity, logprobs, usage).
"""

from vllama_balancer.edge.openai.dialect import DIALECT

__all__ = ["DIALECT"]
