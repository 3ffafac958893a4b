"""The index of a worker's prefix cache."""

from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.routing.prefix_index import BLOCK_BYTES, Prefix, PrefixIndex, block_keys


def prefix(*keys, tokens=10.0):
    """A prefix of made-up blocks."""
    return Prefix(keys, tokens)


def test_equal_beginnings_have_equal_keys():
    """Up to the block in which they differ."""
    one = block_keys(b"a" * 3 * BLOCK_BYTES + b"x" * BLOCK_BYTES)
    other = block_keys(b"a" * 3 * BLOCK_BYTES + b"y" * BLOCK_BYTES)
    assert one[:3] == other[:3]
    assert one[3] != other[3]


def test_a_block_after_a_different_one_has_another_key():
    """A key stands for everything before it."""
    one = block_keys(b"x" * BLOCK_BYTES + b"same" * BLOCK_BYTES)
    other = block_keys(b"y" * BLOCK_BYTES + b"same" * BLOCK_BYTES)
    assert not set(one) & set(other)


def test_a_partial_block_has_no_key():
    """It is always computed."""
    assert len(block_keys(b"a" * (2 * BLOCK_BYTES - 1))) == 1
    assert block_keys(b"") == []


def test_nothing_is_believed_at_first():
    """An empty cache holds nothing."""
    assert PrefixIndex().match(prefix(1, 2)) == 0


def test_what_was_sent_is_held():
    """The same, longer and diverging inputs match as far as they agree."""
    index = PrefixIndex()
    index.insert(prefix(1, 2, 3))
    assert index.match(prefix(1, 2, 3)) == 3
    assert index.match(prefix(1, 2, 3, 4, 5)) == 3
    assert index.match(prefix(1, 2, 9, 10)) == 2
    assert index.match(prefix(9, 10)) == 0


def test_the_least_recently_used_leaves_first():
    """Within the worker's capacity."""
    index = PrefixIndex(capacity_tokens=50)
    index.insert(prefix(1, 2, 3))
    index.insert(prefix(11, 12))
    index.insert(prefix(1, 2, 3))
    index.insert(prefix(21, 22))
    assert index.match(prefix(11, 12)) == 0
    assert index.match(prefix(1, 2, 3)) == 3


def test_tails_leave_before_heads():
    """As in the engines, so a shorter prefix stays useful."""
    index = PrefixIndex(capacity_tokens=40)
    index.insert(prefix(1, 2, 3))
    index.insert(prefix(11, 12, 13))
    assert index.match(prefix(1, 2, 3)) == 1


def test_a_miss_forgets_as_much_of_the_oldest():
    """The worker has evicted more than was predicted."""
    index = PrefixIndex()
    index.insert(prefix(1, 2, 3, 4))
    index.insert(prefix(11, 12))
    index.evict(40)
    assert index.match(prefix(1, 2, 3, 4)) == 0
    assert index.match(prefix(11, 12)) == 2


def test_a_prefix_larger_than_the_cache_is_held_in_part():
    """Never more than fits."""
    index = PrefixIndex(capacity_tokens=30)
    index.insert(prefix(1, 2, 3, 4, 5))
    assert index.match(prefix(1, 2, 3, 4, 5)) == 3


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=12), max_size=30), st.integers(1, 40))
def test_bisection_agrees_with_counting(inputs, capacity):
    """Held blocks are always a prefix: no hole can appear whatever comes and goes."""
    index = PrefixIndex(capacity_tokens=capacity)
    for text in inputs:
        keys = tuple(hash(text[: i + 1]) for i in range(len(text)))
        index.insert(Prefix(keys, 1.0))
        counted = next((i for i, key in enumerate(keys) if key not in index.blocks), len(keys))
        assert index.match(Prefix(keys, 1.0)) == counted
        assert len(index.blocks) <= capacity
