"""Which generations are resumed and which are computed again; the balancer follows the same rule as the worker."""

from random import Random

import pytest

from vllama_balancer.dispatch.generation import Generation
from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.gateway import Call
from vllama_balancer.routing.request_size import EMPTY_SIZE
from vllama_protos.continuation import must_replay
from vllama_protos.v1 import generation_pb2 as pb


def request(**fields):
    """A request with some sampling."""
    return pb.GenerateRequest(prompt="x", **fields)


RESUMED = [
    request(),
    request(sampling=pb.Sampling(temperature=0.0, seed=7)),
    request(sampling=pb.Sampling(temperature=0.8)),
    request(sampling=pb.Sampling(temperature=0.8, seed=-1)),
    request(sampling=pb.Sampling(temperature=0.8, presence_penalty=0.5)),
    request(sampling=pb.Sampling(frequency_penalty=1.5)),
    request(sampling=pb.Sampling(temperature=0.0, repetition_penalty=1.3)),
]
REPLAYED = [
    request(output_format=pb.OutputFormat(json_object=True)),
    request(sampling=pb.Sampling(seed=7)),
    request(sampling=pb.Sampling(seed=7, temperature=0.8)),
    request(sampling=pb.Sampling(temperature=0.0, frequency_penalty=0.5)),
    request(sampling=pb.Sampling(top_p=0.0, presence_penalty=0.5)),
    pb.GenerateRequest(chat=pb.Chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED))),
]


@pytest.mark.parametrize(
    ("request_", "is_replayed"), [(one, False) for one in RESUMED] + [(one, True) for one in REPLAYED]
)
def test_the_balancer_resumes_exactly_what_the_worker_resumes(request_, is_replayed):
    """Also after the balancer has given a guided request its seed."""
    before = must_replay(request_)
    generation = Generation("m", request_, PlacementRequest("r", "m", "c", EMPTY_SIZE), Call("c"), Random(1), 0.0)
    generation.next_request("m")
    generation.deliver("delta", pb.GenerateResponse(delta=pb.Delta(token_ids=[1, 2])))
    sent = generation.next_request("m")
    assert (before, must_replay(sent)) == (is_replayed, is_replayed)
    assert list(sent.resume_token_ids) == ([] if is_replayed else [1, 2])
