"""The model scheduler does not flap: models do not evict each other only to be loaded again."""

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
def results() -> dict[str, ScenarioResult]:
    """Every scenario, played once."""
    return {scenario.title: play(scenario) for scenario in SCENARIOS}


def loads(result: ScenarioResult) -> Counter[str]:
    """Counts the loads of each model."""
    return Counter(residency.model for residency in result.residencies)


def test_with_a_slot_for_each_no_model_moves(results: dict[str, ScenarioResult]) -> None:
    """Sixty turns each, one load each."""
    assert loads(results["two places, turns of five seconds"]) == {"A": 1, "B": 1}


def test_scaling_ends_when_the_slots_are_full(results: dict[str, ScenarioResult]) -> None:
    """A saturated model takes free slots, and keeps them."""
    for title, most in (("three places, turns of a minute", 3), ("four places, both models all the time", 4)):
        assert loads(results[title]).total() <= most
        assert results[title].shortest_residency_seconds == math.inf


def test_one_slot_changes_its_model_once_a_turn(results: dict[str, ScenarioResult]) -> None:
    """Five turns of two minutes need five loads, and a model stays for nearly all of its turn."""
    result = results["one place, turns of two minutes"]
    assert loads(result) == {"A": 3, "B": 2}
    assert result.shortest_residency_seconds > 60


@pytest.mark.parametrize("clients", [1, 6])
def test_models_that_alternate_faster_than_they_load_move_less_often(clients: int) -> None:
    """A model that was just evicted stays for two loads: a third fewer moves, more answers, a shorter mean wait."""
    scenario = Scenario("alternating", 1, tuple(LoadPattern(clients, 10.0, 5.0, offset) for offset in (0.0, 5.0)))
    eager, calm = play(scenario, SchedulerSettings(min_residency_loads=0.0)), play(scenario)
    assert loads(calm).total() <= loads(eager).total() * 2 / 3
    eager_waits, calm_waits = ([*chain(*result.waits_seconds.values())] for result in (eager, calm))
    assert len(calm_waits) > 1.2 * len(eager_waits)
    assert fmean(calm_waits) < 0.8 * fmean(eager_waits)


def test_a_switch_that_lasts_is_not_held_up() -> None:
    """With turns longer than two loads the rule changes nothing."""
    scenario = Scenario("turns", 1, tuple(LoadPattern(6, 120.0, 60.0, offset) for offset in (0.0, 60.0)))
    assert play(scenario).residencies == play(scenario, SchedulerSettings(min_residency_loads=0.0)).residencies


def test_two_busy_models_share_one_slot_by_turns() -> None:
    """A model keeps the slot for its turn before it is unloaded, so most of the time goes into answers.

    With turns of 30 s and 13 s to change, ten minutes have room for some fifteen loads.
    """
    settings = SchedulerSettings(min_tenure_seconds=30.0)
    result = play(Scenario("busy", 1, (ALL_THE_TIME, ALL_THE_TIME)), settings)
    assert loads(result).total() <= 600 / (settings.min_tenure_seconds + LOAD_SECONDS) + 3
    assert min(len(waits) for waits in result.waits_seconds.values()) > 200


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_no_model_starves(results: dict[str, ScenarioResult], scenario: Scenario) -> None:
    """Every model is served again and again, and no request waits for more than a few turns of the others."""
    result = results[scenario.title]
    longest_turn = max(
        SchedulerSettings().min_tenure_seconds, *(h.busy_seconds for h in scenario.patterns if h.busy_seconds < 1e9), 0
    )
    for waits, pattern in zip(result.waits_seconds.values(), scenario.patterns, strict=True):
        assert len(waits) > 8 * pattern.clients
        assert max(waits) < len(scenario.patterns) * (longest_turn + 2 * LOAD_SECONDS)


def test_a_scenario_can_be_repeated() -> None:
    """Nothing depends on the machine or the hour."""
    assert play(SCENARIOS[2]).residencies == play(SCENARIOS[2]).residencies


def test_the_table_and_the_charts_show_every_scenario(results: dict[str, ScenarioResult]) -> None:
    """A row and a well-formed picture each."""
    assert [row[0] for row in table(list(results.values())).rows] == [scenario.title for scenario in SCENARIOS]
    for result in results.values():
        drawn = ElementTree.fromstring(chart(result))
        assert drawn.tag.endswith("svg")
        seen = [residency for residency in result.residencies if residency.began < result.scenario.seconds]
        assert len(drawn.findall("{*}rect")) == 2 * len(seen) + len(result.scenario.models)


def test_load_patterns_repeat() -> None:
    """Busy for ten of thirty seconds, beginning at five."""
    pattern = LoadPattern(1, 30.0, 10.0, 5.0)
    assert [pattern.idle_seconds(now) for now in (5.0, 14.0, 15.0, 34.0, 36.0)] == [0.0, 0.0, 20.0, 1.0, 0.0]
