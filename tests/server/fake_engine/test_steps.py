"""The step loop of the simulated engine, driven without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_server.fake_engine.prefix_cache import block_ids
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.fake_engine.steps import StepModel, Stream


def stream(prompt: bytes, output_tokens: int = 1, *, priority: int = 0, block_tokens: int = 16) -> Stream:
    """Makes a stream of one token for each four bytes of the prompt."""
    return Stream(len(prompt) // 4, block_ids(prompt, block_tokens * 4), output_tokens, priority=priority)


def run(model: StepModel) -> list[float]:
    """Runs the model until it is idle; returns the seconds of each step."""
    seconds = []
    while (step := model.begin()) is not None:
        model.finish(step)
        seconds.append(step.seconds)
    return seconds


def test_a_step_takes_its_fixed_time_its_prefill_and_its_streams():
    """The formula of the profile, for a prompt and then a decode."""
    model = StepModel(
        SimulationProfile(step_seconds=0.01, step_seconds_per_stream=0.001, prefill_tokens_per_second=1000)
    )
    model.submit(stream(b"abcd" * 50, 2))
    assert run(model) == pytest.approx([0.01 + 0.05, 0.01 + 0.001])


def test_speed_divides_every_time():
    """An engine of half the speed takes twice as long."""
    model = StepModel(SimulationProfile(speed=0.5))
    model.submit(stream(b"abcd" * 20, 1))
    assert run(model) == pytest.approx([2 * (0.01 + 20 / 20_000)])


def test_the_first_token_comes_with_the_end_of_the_prompt():
    """A prompt of one step and three tokens take three steps."""
    model = StepModel(SimulationProfile())
    one = stream(b"abcd" * 20, 3)
    model.submit(one)
    assert len(run(model)) == 3
    assert one.produced_tokens == 3


def test_a_long_prompt_is_computed_in_chunks():
    """A step computes at most its budget."""
    model = StepModel(SimulationProfile(step_tokens=100))
    model.submit(stream(b"abcd" * 250))
    steps = []
    while (step := model.begin()) is not None:
        model.finish(step)
        steps.append(step.prefill_tokens)
    assert steps == [100, 100, 50]


def test_decoding_streams_come_before_prompts():
    """Each decoding stream takes one token of the budget, the rest goes to prompts."""
    model = StepModel(SimulationProfile(step_tokens=10))
    model.submit(stream(b"abcd" * 5, 4))
    model.finish(model.begin())
    model.submit(stream(b"wxyz" * 30))
    step = model.begin()
    assert (len(step.decoding), step.prefill_tokens) == (1, 9)


def test_prompts_are_served_in_order():
    """The first prompt is finished before the next one gets a token."""
    model = StepModel(SimulationProfile(step_tokens=100))
    first, second = stream(b"abcd" * 150), stream(b"wxyz" * 20)
    model.submit(first)
    model.submit(second)
    model.finish(model.begin())
    assert (first.computed_tokens, second.computed_tokens) == (100, 0)
    model.finish(model.begin())
    assert (first.finished, second.finished) == (True, True)


def test_a_lower_priority_value_goes_first():
    """Waiting streams are ordered by priority, then by arrival."""
    model = StepModel(SimulationProfile(max_streams=1))
    running, late, early = stream(b"aaaa"), stream(b"bbbb", priority=1), stream(b"cccc", priority=-1)
    for one in (running, late, early):
        model.submit(one)
    run_order = []
    while (step := model.begin()) is not None:
        run_order += model.finish(step)
    assert run_order == [early, running, late]


def test_no_more_streams_than_allowed_run_at_once():
    """The rest waits."""
    model = StepModel(SimulationProfile(max_streams=2))
    for letter in b"abcde":
        model.submit(stream(bytes([letter]) * 4, 5))
    model.begin()
    assert (model.running, model.waiting) == (2, 3)


def test_a_known_prefix_needs_no_prefill():
    """The second request computes only what is new."""
    model = StepModel(SimulationProfile())
    model.submit(stream(b"a" * 256 + b"bbbb"))
    run(model)
    second = stream(b"a" * 256 + b"cccc")
    model.submit(second)
    assert model.begin().prefill_tokens == 1
    assert second.cached_tokens == 64


def test_generated_tokens_are_shared_where_they_are_known():
    """All but the last, which is never computed: 320 + 159 tokens fill 29 blocks of 16."""
    model = StepModel(SimulationProfile())
    ids = block_ids(b"abcd" * (320 + 160 + 32), 64)
    model.submit(Stream(320, ids, 160))
    run(model)
    follower = Stream(512, ids, 1)
    model.submit(follower)
    run(model)
    assert follower.cached_tokens == 29 * 16


def test_the_last_block_is_always_computed():
    """A prompt that is known altogether still computes its last block, from which the first token comes."""
    model = StepModel(SimulationProfile())
    for _ in range(2):
        one = stream(b"a" * 256)
        model.submit(one)
        run(model)
    assert one.cached_tokens == 48


def test_a_prefix_is_shared_only_from_the_start():
    """Equal blocks after different ones are different blocks."""
    model = StepModel(SimulationProfile())
    model.submit(stream(b"a" * 256))
    run(model)
    other = stream(b"b" * 64 + b"a" * 192)
    model.submit(other)
    run(model)
    assert other.cached_tokens == 0


def test_the_least_recently_used_prefix_is_forgotten_first():
    """Room for a new prompt comes from the oldest one."""
    model = StepModel(SimulationProfile(kv_cache_tokens=16 * 7))
    cached = {}
    for word in (b"old ", b"mid ", b"new ", b"mid ", b"old "):
        one = stream(word * 16 * 3)
        model.submit(one)
        run(model)
        cached[word] = one.cached_tokens
    assert cached == {b"old ": 0, b"mid ": 32, b"new ": 0}


def test_a_stream_that_does_not_fit_waits_for_room():
    """A full cache admits no stream until another one ends."""
    model = StepModel(SimulationProfile(kv_cache_tokens=160))
    first, second = stream(b"aaaa" * 80, 10), stream(b"bbbb" * 80, 10)
    model.submit(first)
    model.submit(second)
    model.finish(model.begin())
    assert (model.running, model.waiting) == (1, 1)
    run(model)
    assert second.finished


def test_a_stream_larger_than_the_cache_is_refused():
    """It would wait for ever."""
    model = StepModel(SimulationProfile(kv_cache_tokens=160))
    with pytest.raises(ValueError, match="larger"):
        model.submit(stream(b"aaaa" * 200))


def test_a_cancelled_stream_gets_nothing_more():
    """Cancelling between the two halves of a step is safe in every phase."""
    model = StepModel(SimulationProfile(max_streams=2))
    streams = [stream(bytes([letter]) * 16, 5) for letter in b"abc"]
    for one in streams:
        model.submit(one)
    step = model.begin()
    for one in streams:
        model.cancel(one)
    assert model.finish(step) == []
    assert model.begin() is None
    assert model.kv_cache_use == 0


def test_zero_output_tokens_compute_the_prompt_only():
    """The stream advances once, without a token."""
    model = StepModel(SimulationProfile())
    one = stream(b"abcd" * 20, 0)
    model.submit(one)
    assert model.finish(model.begin()) == [one]
    assert (one.finished, one.produced_tokens) == (True, 0)


def test_shared_blocks_count_once():
    """Two streams with one prefix fill the cache little more than one does."""
    model = StepModel(SimulationProfile(kv_cache_tokens=16 * 100))
    model.submit(stream(b"a" * 64 * 40 + b"x", 50))
    model.finish(model.begin())
    alone = model.kv_cache_use
    model.submit(stream(b"a" * 64 * 40 + b"yyyy", 50))
    model.finish(model.begin())
    assert model.kv_cache_use < alone + 0.03


REQUESTS = st.tuples(st.sampled_from(b"ab"), st.integers(1, 60), st.integers(0, 20), st.integers(0, 6))


@given(st.lists(REQUESTS, max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_stream_ends_and_nothing_leaks(requests, max_streams, random):
    """Whatever comes and is cancelled when, each stream gets exactly its tokens and all room is free again."""
    model = StepModel(SimulationProfile(kv_cache_tokens=320, step_tokens=24, max_streams=max_streams))
    live = []
    for letter, prompt_tokens, output_tokens, cancel_one_in in requests:
        one = stream(bytes([letter]) * 4 * prompt_tokens, output_tokens)
        model.submit(one)
        live.append((one, cancel_one_in))
        if (step := model.begin()) is not None:
            for other, chance in live:
                if chance and random.randrange(chance) == 0:
                    model.cancel(other)
            model.finish(step)
    cancelled = {one for one, _ in live if one.finished and one.produced_tokens < one.output_tokens}
    run(model)
    for one, _ in live:
        assert one.finished
        assert one.produced_tokens == one.output_tokens or one in cancelled
    assert (model.running, model.waiting, model.queued_prompt_tokens, model.kv_cache_use) == (0, 0, 0, 0)
    model.submit(stream(b"full" * 319, 1))
    assert len(run(model)) == -(-319 // 24)
