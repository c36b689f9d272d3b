"""Intervals and tests over simulated templates, where the truth is known."""

import numpy as np
import polars as pl
import pytest

from malt_data.evaluation.statistics import holm, interval, paired_test, sign_flip
from malt_data.evaluation.tables import compare

TEMPLATES, INSTANCES = 20, 20


def evaluation(source: np.random.Generator, effect: float) -> pl.DataFrame:
    """Two settings; which of them is better differs from template to template."""
    base = source.uniform(0.3, 0.7, TEMPLATES)
    effects = source.normal(effect, 0.2, TEMPLATES)
    template = np.repeat(np.arange(TEMPLATES), INSTANCES)
    sides = []
    for name, chance in (("a", base + effects / 2), ("b", base - effects / 2)):
        right = source.random(template.size) < np.clip(chance, 0, 1)[template]
        sides.append(pl.DataFrame({
            "setting": name, "seed": 0, "correct": right, "cluster": template.astype(str),
            "question_id": np.arange(template.size).astype(str),
        }))  # fmt: skip
    return pl.concat(sides)


def rejected(effect: float, times: int, clusters: bool = True) -> float:
    source = np.random.default_rng(7)
    found = []
    for _ in range(times):
        frame = evaluation(source, effect)
        test = compare(frame if clusters else frame.drop("cluster"), "a", "b")
        assert test is not None
        found.append(test["p"] < 0.05)
    return float(np.mean(found))


def test_random_differences_between_templates_are_not_significant() -> None:
    assert 0.02 <= rejected(effect=0, times=500) <= 0.08
    assert rejected(effect=0, times=60, clusters=False) > 0.2  # what is wrong about questions


def test_a_real_effect_is_detected_despite_templates() -> None:
    assert rejected(effect=0.25, times=60) > 0.9


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("alike", [0.05, 0.3])
def test_intervals_over_20_clusters_cover_the_truth(mean: float, alike: float) -> None:
    source = np.random.default_rng(3)
    spread = (1 - alike) / alike  # alike: the correlation of questions within a template
    chances = source.beta(mean * spread, (1 - mean) * spread, (1500, TEMPLATES))
    right = source.binomial(INSTANCES, chances)
    asked = np.full(TEMPLATES, INSTANCES)
    ends = np.array([interval(one, asked) for one in right])
    covered = float(((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean())
    assert 0.93 <= covered <= 0.97, covered


def test_an_interval_over_several_teams_covers_further_teams() -> None:
    source = np.random.default_rng(5)
    for teams in (3, 5):
        team = source.normal(0, 0.05, (1500, teams, 1))
        cluster = source.normal(0, 0.15, (1500, 1, 30))
        right = source.binomial(4, np.clip(0.6 + team + cluster, 0, 1))
        asked = np.full((teams, 30), 4)
        ends = np.array([interval(one, asked) for one in right])
        assert 0.93 <= ((ends[:, 0] <= 0.6) & (ends[:, 1] >= 0.6)).mean() <= 0.985
        pooled = np.array([interval(one.sum(axis=0), asked.sum(axis=0)) for one in right])
        assert ((pooled[:, 0] <= 0.6) & (pooled[:, 1] >= 0.6)).mean() < 0.9  # teams are no constant


def test_random_differences_between_teams_are_not_significant() -> None:
    source = np.random.default_rng(6)
    for effect, low, high in ((0.0, 0.01, 0.08), (0.3, 0.85, 1.0)):
        team = source.normal(effect, 0.1, (250, 4, 1))
        cluster = source.normal(0, 0.2, (250, 1, 30))
        differences = team + cluster + source.normal(0, 0.3, (250, 4, 30))
        asked = np.ones((4, 30))
        found = np.array([paired_test(one, asked) for one in differences])
        assert low <= (found < 0.05).mean() <= high


@pytest.mark.parametrize("clusters", [1, 5, 100])
def test_the_interval_of_all_right_or_all_wrong_is_clopper_pearson(clusters: int) -> None:
    asked = np.full(clusters, 7)
    low, high = interval(asked, asked)
    assert high == 1
    assert low**clusters == pytest.approx(0.025)  # so rare would all of them be at `low`
    assert interval(np.zeros(clusters), asked) == pytest.approx((0, 1 - low))


def test_a_duplicate_seed_adds_no_information_and_one_cluster_has_none() -> None:
    right = np.array([1, 1, 0] * 10)
    once, twice = interval(right, np.ones(30)), interval(2 * right, np.full(30, 2))
    assert once == pytest.approx(twice)
    assert 0.45 < once[0] < 2 / 3 < once[1] < 0.85
    assert interval([3], [7]) == (0, 1)


def test_exact_and_sampled_permutation_tests_agree() -> None:
    assert sign_flip([3, 2, 1]) == 2 / 8
    assert sign_flip([3, -2, 1]) == 6 / 8  # |sum| is 2 or more but where it is 0
    assert sign_flip([0, 0, 0]) == sign_flip([]) == 1
    values = np.random.default_rng(1).normal(0.4, 1, 13)
    drawn = sign_flip([*values, 1e-12])  # a fourteenth that changes nothing: signs are drawn
    assert drawn == pytest.approx(sign_flip(values), abs=0.02)


def test_identical_teams_are_tested_over_clusters() -> None:
    same = np.tile([1.0, 1, 0, 1, 1, 0], (3, 1))
    assert paired_test(same, np.ones((3, 6))) >= sign_flip(same[0]) == 2 / 16
    assert paired_test(np.ones((3, 6)), np.ones((3, 6))) == 2 / 2**6
    assert paired_test(np.zeros((3, 6)), np.ones((3, 6))) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []
