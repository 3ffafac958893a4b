from hypothesis import given
from hypothesis import strategies as st

from vllama_benchmarks.simulate.workload import BLOCK_TOKENS, Segment, block_ids

SEGMENTS = st.lists(st.builds(Segment, st.integers(1, 5), st.integers(1, 70)), max_size=6)


@given(SEGMENTS)
def test_a_prompt_has_one_identity_for_each_full_block(segments: list[Segment]) -> None:
    """A rest that fills no block has no identity, as in the engines."""
    assert len(block_ids(tuple(segments))) == sum(s.tokens for s in segments) // BLOCK_TOKENS


@given(SEGMENTS, SEGMENTS, SEGMENTS)
def test_equal_prefixes_share_their_full_blocks(start: list[Segment], one: list[Segment], two: list[Segment]) -> None:
    """Whatever follows, blocks are named by what precedes them and by their own text."""
    shared = sum(s.tokens for s in start) // BLOCK_TOKENS
    assert block_ids((*start, *one))[:shared] == block_ids((*start, *two))[:shared]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_a_different_start_changes_every_block(lengths: list[int]) -> None:
    """Blocks of equal text after different text are different blocks."""
    tail = tuple(Segment(9, length) for length in lengths)
    one = block_ids((Segment(1, BLOCK_TOKENS), *tail))
    two = block_ids((Segment(2, BLOCK_TOKENS), *tail))
    assert not set(one) & set(two)


def test_identities_do_not_depend_on_the_process() -> None:
    """They are made of integers only, whose hashes Python does not salt: runs can be repeated."""
    assert block_ids((Segment(1, 16),)) == (hash((0, hash((0, 1, 0, 16)))),)
