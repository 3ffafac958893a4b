"""The rule by which a broken generation continues on another worker: resumed, or computed again. Shared by both sides.

Usually it is resumed: the delivered tokens are put behind the prompt, and the model continues after them. That is exact
if the continuation depends on the tokens alone, or on chance. Three things are not in the tokens: the position in a
grammar, the position in a seeded random stream, and, for greedy output, the counts behind presence and frequency
penalties. Such a generation is computed again from its start and has to give the delivered tokens again. Sampled output
without a seed never can, so it is resumed, with penalties that count from the seam.
"""

from __future__ import annotations

from vllama_protos.v1 import generation_pb2

_FORCED_CALLS = (generation_pb2.TOOL_CHOICE_MODE_REQUIRED, generation_pb2.TOOL_CHOICE_MODE_NAMED)


def is_guided(request: generation_pb2.GenerateRequest) -> bool:
    """Returns whether a grammar constrains the output."""
    return request.HasField("output_format") or request.chat.tool_choice.mode in _FORCED_CALLS


def must_replay(request: generation_pb2.GenerateRequest) -> bool:
    """Returns whether a generation is computed again from its start rather than resumed."""
    sampling = request.sampling
    if is_guided(request):
        return True
    if _is_greedy(sampling):
        return bool(sampling.presence_penalty or sampling.frequency_penalty)
    return sampling.HasField("seed") and sampling.seed >= 0


def _is_greedy(sampling: generation_pb2.Sampling) -> bool:
    explicit = sampling.HasField("temperature") and sampling.temperature <= 0
    return explicit or (sampling.HasField("top_p") and sampling.top_p <= 0)
