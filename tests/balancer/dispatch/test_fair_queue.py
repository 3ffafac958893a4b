"""Round-robin turns between clients."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.dispatch.fair_queue import FairQueue


def drain(queue, clients):
    """Serves everything by turns."""
    served = []
    while (item := queue.next_turn()) is not None:
        queue.take(clients[item], item)
        served.append(item)
    return served


def test_clients_take_turns():
    """One that sends much delays another by one turn, not by all."""
    queue, clients = FairQueue(), {}
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        clients[item] = item[0]
        queue.push(item[0], item)
    assert drain(queue, clients) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_priority_orders_a_clients_own_items():
    """Lower first, ties in order; the turns between clients stay."""
    queue, clients = FairQueue(), {}
    for item, priority in (("a1", 5), ("b1", 9), ("a2", -1), ("a3", 5), ("b2", 0)):
        clients[item] = item[0]
        queue.push(item[0], item, priority)
    assert drain(queue, clients) == ["a2", "b2", "a1", "b1", "a3"]
    assert len(queue) == 0


def test_those_ahead_are_listed_apart():
    """They wait for their own conditions."""
    queue = FairQueue()
    queue.push("a", "a1")
    queue.push_ahead("back1")
    queue.push_ahead("back2")
    assert list(queue.ahead()) == ["back1", "back2"]
    assert queue.next_turn() == "a1"
    assert len(queue) == 3


def test_giving_up_leaves_from_anywhere():
    """At once, and only once."""
    queue = FairQueue()
    for item in ("a1", "a2", "b1"):
        queue.push(item[0], item)
    queue.push_ahead("x")
    assert queue.discard("a", "a1")
    assert not queue.discard("a", "a1")
    assert queue.discard("unknown", "x")
    assert drain(queue, {"a2": "a", "b1": "b"}) == ["a2", "b1"]
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_shares_never_drift_apart(operations):
    """While clients wait all the time, the turns they have had differ by one at most."""
    queue, clients, turns = FairQueue(), {}, Counter()
    for number, (client, _) in enumerate(operations):
        clients[number] = client
        queue.push(client, number)
    waiting = Counter(clients.values())
    while (item := queue.next_turn()) is not None:
        client = clients[item]
        queue.take(client, item)
        turns[client] += 1
        waiting[client] -= 1
        still = [turns[name] for name, count in waiting.items() if count]
        assert not still or max(turns.values()) - min(still) <= 1
    assert sum(turns.values()) == len(operations)
