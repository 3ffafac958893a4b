"""The loading policy does not flap: models do not push each other out only to come back."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from statistics import fmean
from xml.etree import ElementTree

import pytest

from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_benchmarks.simulate.alternating_load import (
    SCENARIOS,
    LoadPattern,
    Scenario,
    ScenarioResult,
    chart,
    play,
    table,
)
from vllama_benchmarks.simulate.simulated_fleet import LOAD_SECONDS

ALL_THE_TIME = LoadPattern(clients=6)


@pytest.fixture(scope="module")
def histories() -> dict[str, ScenarioResult]:
    """Every scene, played once."""
    return {scene.title: play(scene) for scene in SCENARIOS}


def loads(history: ScenarioResult) -> Counter[str]:
    """Counts the loads of each model."""
    return Counter(stay.model for stay in history.stays)


def test_with_a_place_for_each_nobody_moves(histories: dict[str, ScenarioResult]) -> None:
    """Sixty turns each, one load each."""
    assert loads(histories["two places, turns of five seconds"]) == {"A": 1, "B": 1}


def test_growth_ends_when_the_places_are_full(histories: dict[str, ScenarioResult]) -> None:
    """A model that is full takes what is free, and nobody's place is taken from him again."""
    for title, most in (("three places, turns of a minute", 3), ("four places, both models all the time", 4)):
        assert loads(histories[title]).total() <= most
        assert histories[title].shortest_stay_seconds == math.inf


def test_one_place_changes_hands_once_a_turn(histories: dict[str, ScenarioResult]) -> None:
    """Five turns of two minutes need five loads, and a model stays for nearly all of its turn."""
    history = histories["one place, turns of two minutes"]
    assert loads(history) == {"A": 3, "B": 2}
    assert history.shortest_stay_seconds > 60


@pytest.mark.parametrize("clients", [1, 6])
def test_models_that_alternate_faster_than_they_load_move_less_often(clients: int) -> None:
    """Who is wanted back at once stays for two loads: a third fewer moves, more answers, and a shorter mean wait."""
    scene = Scenario("alternating", 1, tuple(LoadPattern(clients, 10.0, 5.0, offset) for offset in (0.0, 5.0)))
    eager, calm = play(scene, SchedulerSettings(min_residency_loads=0.0)), play(scene)
    assert loads(calm).total() <= loads(eager).total() * 2 / 3
    eager_waits, calm_waits = ([*chain(*history.waits_seconds.values())] for history in (eager, calm))
    assert len(calm_waits) > 1.2 * len(eager_waits)
    assert fmean(calm_waits) < 0.8 * fmean(eager_waits)


def test_a_switch_that_lasts_is_not_held_up() -> None:
    """With turns longer than two loads everything is as it would be without the rule."""
    scene = Scenario("turns", 1, tuple(LoadPattern(6, 120.0, 60.0, offset) for offset in (0.0, 60.0)))
    assert play(scene).stays == play(scene, SchedulerSettings(min_residency_loads=0.0)).stays


def test_two_busy_models_share_one_place_by_turns() -> None:
    """A model keeps the place for its turn before it makes way, so most of the time goes into answers.

    With turns of 30 s and 13 s to change, ten minutes have room for some fifteen loads.
    """
    settings = SchedulerSettings(min_tenure_seconds=30.0)
    history = play(Scenario("busy", 1, (ALL_THE_TIME, ALL_THE_TIME)), settings)
    assert loads(history).total() <= 600 / (settings.min_tenure_seconds + LOAD_SECONDS) + 3
    assert min(len(waits) for waits in history.waits_seconds.values()) > 200


@pytest.mark.parametrize("scene", SCENARIOS, ids=lambda scene: scene.title)
def test_nobody_starves(histories: dict[str, ScenarioResult], scene: Scenario) -> None:
    """Every model is served again and again, and no request waits for more than a few turns of the others."""
    history = histories[scene.title]
    longest_turn = max(
        SchedulerSettings().min_tenure_seconds, *(h.busy_seconds for h in scene.habits if h.busy_seconds < 1e9), 0
    )
    for waits, habit in zip(history.waits_seconds.values(), scene.habits, strict=True):
        assert len(waits) > 8 * habit.clients
        assert max(waits) < len(scene.habits) * (longest_turn + 2 * LOAD_SECONDS)


def test_a_scene_can_be_repeated() -> None:
    """Nothing depends on the machine or the hour."""
    assert play(SCENARIOS[2]).stays == play(SCENARIOS[2]).stays


def test_the_table_and_the_charts_show_every_scene(histories: dict[str, ScenarioResult]) -> None:
    """A row and a well-formed picture each."""
    assert [row[0] for row in table(list(histories.values())).rows] == [scene.title for scene in SCENARIOS]
    for history in histories.values():
        drawn = ElementTree.fromstring(chart(history))
        assert drawn.tag.endswith("svg")
        seen = [stay for stay in history.stays if stay.began < history.scene.seconds]
        assert len(drawn.findall("{*}rect")) == 2 * len(seen) + len(history.scene.models)


def test_habits_begin_anew() -> None:
    """Busy for ten of thirty seconds, beginning at five."""
    habit = LoadPattern(1, 30.0, 10.0, 5.0)
    assert [habit.idle_seconds(now) for now in (5.0, 14.0, 15.0, 34.0, 36.0)] == [0.0, 0.0, 20.0, 1.0, 0.0]
