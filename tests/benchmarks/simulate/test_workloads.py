import pytest

from vllama_benchmarks.simulate.workloads import WORKLOADS, generate


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_writes_the_same_requests(name: str) -> None:
    """A run can be repeated exactly, and another seed is another run."""
    assert generate(name, 3, 8).sessions == generate(name, 3, 8).sessions
    if name != "uniform":
        assert generate(name, 3, 8).sessions != generate(name, 4, 8).sessions


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_client_asks_several_times(name: str) -> None:
    """A run is long enough to leave its beginning behind."""
    turns = sum(len(session.turns) for session in generate(name, 0, 32).sessions)
    assert turns >= 5 * 32


@pytest.mark.parametrize("name", ["chats", "agents"])
def test_a_turn_begins_with_the_turn_before(name: str) -> None:
    """Conversations send their history again, so its blocks can be found in a cache."""
    for session in generate(name, 0, 8).sessions:
        for before, after in zip(session.turns, session.turns[1:], strict=False):
            assert after.blocks[: len(before.blocks)] == before.blocks


def test_chats_share_system_prompts() -> None:
    """Many conversations begin alike: their first block is one of six."""
    firsts = {session.turns[0].blocks[0] for session in generate("chats", 0, 50).sessions}
    assert len(firsts) == 6


def test_the_hot_prefix_is_shared_by_all() -> None:
    """Every prompt begins with the same 6000 tokens."""
    turns = [session.turns[0] for session in generate("hot-prefix", 0, 8).sessions]
    assert len({turn.blocks[: 6000 // 16] for turn in turns}) == 1


def test_one_prompt_in_ten_is_long() -> None:
    """Of some 500 prompts a tenth, within three standard deviations: 46 of 460 gives 6.4."""
    lengths = [session.turns[0].prompt_tokens for session in generate("long-prompts", 0, 50).sessions]
    assert set(lengths) == {200, 12000}
    assert abs(lengths.count(12000) - 46) < 20
