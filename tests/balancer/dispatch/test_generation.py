"""The request of each attempt of one generation."""

from random import Random

from vllama_balancer.dispatch.generation import Generation
from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.gateway import Call
from vllama_balancer.routing.request_size import EMPTY_SIZE
from vllama_protos.v1 import generation_pb2 as pb


def generation_of(request, size=EMPTY_SIZE):
    """Makes a generation of a request."""
    return Generation("m:latest", request, PlacementRequest("r", "m", "c", size), Call("c"), Random(1), 0.0)


def deliver(generation, *token_ids):
    """Delivers tokens to the client."""
    assert generation.deliver("delta", pb.GenerateResponse(delta=pb.Delta(token_ids=token_ids))) is not None


def test_the_request_is_not_copied():
    """The gateway takes it over: its id and model are set in place."""
    request = pb.GenerateRequest(prompt="hi")
    assert generation_of(request).next_request("worker's name") is request
    assert (request.request_id, request.model) == ("r", "worker's name")


def test_each_attempt_resumes_after_exactly_the_delivered_tokens():
    """After one migration, after two, and after tokens that the client itself resumes from."""
    request = pb.GenerateRequest(prompt="hi", resume_token_ids=[1])
    generation = generation_of(request)
    assert list(generation.next_request("m").resume_token_ids) == [1]
    deliver(generation, 2, 3)
    assert list(generation.next_request("m").resume_token_ids) == [1, 2, 3]
    assert list(generation.next_request("m").resume_token_ids) == [1, 2, 3]
    deliver(generation, 4)
    assert list(generation.next_request("m").resume_token_ids) == [1, 2, 3, 4]


def test_output_forgives_earlier_failures():
    """A long stream may lose any number of workers over its life."""
    generation = generation_of(pb.GenerateRequest(prompt="hi"))
    generation.failures = 2
    deliver(generation, 1)
    assert generation.failures == 0


def test_a_retry_is_placed_by_the_tokens_that_it_computes_now():
    """The delivered ones belong to its prompt, and are no longer expected as output; each time anew."""
    generation = generation_of(pb.GenerateRequest(prompt="hi"), EMPTY_SIZE._replace(prompt_tokens=10, output_tokens=5))
    deliver(generation, 1, 2, 3)
    generation.record_retry()
    size = generation.placement_request.size
    assert (size.prompt_tokens, size.output_tokens) == (13, 2)
    deliver(generation, 4, 5, 6)
    generation.record_retry()
    size = generation.placement_request.size
    assert (size.prompt_tokens, size.output_tokens) == (16, 0)


def test_a_replayed_request_resumes_nothing():
    """It begins again, and the delivered part is dropped."""
    generation = generation_of(pb.GenerateRequest(prompt="hi", sampling=pb.Sampling(seed=7, temperature=0.8)))
    generation.next_request("m")
    deliver(generation, 2, 3)
    assert not generation.next_request("m").resume_token_ids
    assert generation.deliver("delta", pb.GenerateResponse(delta=pb.Delta(token_ids=[2, 3]))) is None
