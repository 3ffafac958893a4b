"""The size of requests, and the averages behind it."""

import pytest

from vllama_balancer.routing.prefix_index import BLOCK_BYTES
from vllama_balancer.routing.request_size import (
    FIRST_OUTPUT_TOKENS,
    TOKENS_PER_IMAGE,
    Estimates,
    ModelEstimates,
    measure_embedding,
    measure_generation,
)
from vllama_protos.v1 import embedding_pb2
from vllama_protos.v1 import generation_pb2 as pb


def chat(*contents, system="be brief", **fields):
    """A conversation of user turns."""
    turns = [pb.Message(role="system", content=system), *(pb.Message(role="user", content=c) for c in contents)]
    return pb.GenerateRequest(chat=pb.Chat(messages=turns, **fields))


def size(request):
    """Without any finished request."""
    return measure_generation(request, ModelEstimates())


def test_text_is_four_bytes_a_token_at_first():
    """Until workers have counted."""
    assert size(pb.GenerateRequest(prompt="x" * 400)).prompt_tokens == 100


def test_token_ids_are_counted():
    """Nothing is estimated."""
    assert size(pb.GenerateRequest(token_ids=pb.TokenIds(ids=range(77)))).prompt_tokens == 77


def test_images_count_too():
    """And change the prefix."""
    one = pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user", images=[pb.Image(data=b"1")])]))
    other = pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.Message(role="user", content="x" * 600, images=[pb.Image(data=b"2")])])
    )
    assert size(one).prompt_tokens >= TOKENS_PER_IMAGE
    assert size(other).prompt_tokens >= TOKENS_PER_IMAGE + 150


def test_a_longer_conversation_extends_the_shorter_ones_prefix():
    """So the next turn finds its cache."""
    text = "word " * 200
    first, second = size(chat(text)), size(chat(text, "and now?" * 40))
    count = len(first.prefix.keys)
    assert count > 3
    assert list(second.prefix.keys[:count]) == list(first.prefix.keys)


def test_another_system_text_is_another_prefix():
    """From the very first block."""
    text = "word " * 200
    one, other = size(chat(text)), size(chat(text, system="be verbose"))
    assert one.prefix.keys[0] != other.prefix.keys[0]


def test_the_blocks_stand_for_the_tokens():
    """All of them together for nearly the whole prompt."""
    measured = size(pb.GenerateRequest(prompt="x" * BLOCK_BYTES * 10))
    assert measured.prefix.tokens(10) == measured.prompt_tokens


def test_the_output_is_expected_to_be_average_but_within_the_limit():
    """max_tokens bounds it; a negative one is no bound."""
    assert size(pb.GenerateRequest(prompt="x")).output_tokens == FIRST_OUTPUT_TOKENS
    assert size(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(max_tokens=5))).output_tokens == 5
    assert size(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(max_tokens=-1))).output_tokens == 128
    assert size(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(max_tokens=0))).output_tokens == 0


def test_averages_follow_the_requests_of_each_model():
    """About the last twenty requests count."""
    estimates = Estimates()
    for _ in range(100):
        estimates.of("a").finished(1000)
        estimates.of("a").tokenized(prompt_bytes=300, prompt_tokens=100)
    assert estimates.of("a").output_tokens == pytest.approx(1000, rel=0.02)
    assert estimates.of("a").bytes_per_token == pytest.approx(3, rel=0.02)
    assert estimates.of("b").output_tokens == FIRST_OUTPUT_TOKENS


def test_no_prompt_takes_the_bytes_per_token_out_of_their_limits():
    """One that was cut, or that a tokenizer cannot read."""
    estimates = ModelEstimates()
    for _ in range(200):
        estimates.tokenized(60_000_000, 4095)
    assert estimates.bytes_per_token <= 16.0
    for _ in range(200):
        estimates.tokenized(100, 60_000)
    assert estimates.bytes_per_token >= 1.0


def test_short_prompts_do_not_change_the_bytes_per_token():
    """The chat template would dominate."""
    estimates = ModelEstimates()
    estimates.tokenized(prompt_bytes=2, prompt_tokens=40)
    assert estimates.bytes_per_token == 4


def test_embeddings_generate_nothing():
    """And share no prefix."""
    measured = measure_embedding(embedding_pb2.EmbedRequest(inputs=["x" * 40, "y" * 40]), ModelEstimates())
    assert (measured.prompt_tokens, measured.output_tokens, list(measured.prefix.keys)) == (20, 0, [])
