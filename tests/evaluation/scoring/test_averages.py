"""Averages, compared with values computed by hand or by another program."""

import math

import pytest

from tinyvid import Outcome, macro, micro
from tinyvid.evaluation.scoring.averages import bootstrap, bootstrap_p, interval, mcnemar, mean_points, wilson


def outcomes(*values, kind="task", status="answered"):
    return [Outcome(str(i), status, value, groups={kind: group}) for i, (group, value) in enumerate(values)]


def test_micro_counts_items_and_macro_counts_groups():
    rows = outcomes(("a", 1.0), ("a", 1.0), ("a", 0.0), ("a", 1.0), ("b", 0.0), ("c", None))
    assert micro(rows) == 3 / 5
    assert macro(rows, "task") == (3 / 4 + 0) / 2, "a group without an answer is none"
    assert math.isnan(micro([]))
    assert math.isnan(macro(rows, "color"))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # computed from Wilson's formula with z = 1.959964
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (158, 242, 0.5909, 0.7101),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson(successes, n, low, high):
    assert wilson(successes, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [  # 2 * sum of binomial(n, i) / 2**n up to the smaller count
        (4, 12, 2 * (1 + 16 + 120 + 560 + 1820) / 2**16),
        (0, 5, 2 / 2**5),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (1, 0, 1.0),
        (600, 700, 0.00604),  # the normal approximation with continuity correction
    ],
)
def test_mcnemar(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p, rel=5e-3)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_bootstrap_resamples_videos_not_items():
    values = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 10
    alone = bootstrap(values, range(60))
    together = bootstrap(values, [i // 3 for i in range(60)])
    assert alone == bootstrap(values, range(60)), "the same numbers every time"
    assert alone == (pytest.approx(0.5 - 1.96 * 0.0645, abs=0.02), pytest.approx(0.5 + 1.96 * 0.0645, abs=0.02))
    assert together[1] - together[0] == pytest.approx((alone[1] - alone[0]) * 3**0.5, rel=0.1)
    assert interval([0.5, 0.7]) == bootstrap([0.5, 0.7], range(2)), "values between 0 and 1 have no Wilson interval"


def test_bootstrap_p_agrees_with_the_interval():
    assert bootstrap_p([0.0] * 20, range(20)) == 1, "no difference"
    assert bootstrap_p([0.3, -0.3] * 10, range(20)) > 0.5
    certain = bootstrap_p([0.1, 0.3, 0.2] * 10, range(30))
    assert certain == pytest.approx(2 / 10_001), "all means are above 0"
    values = [0.5, -0.2, 0.4, -0.3, 0.6, 0.1, -0.1, 0.3] * 4
    p = bootstrap_p(values, range(32))
    assert (p < 0.05) == (bootstrap(values, range(32))[0] > 0)
    assert p == bootstrap_p([-value for value in values], range(32)), "either run may be better"
    assert bootstrap_p(values, [index // 8 for index in range(32)]) != p, "clusters are drawn as a whole"


def test_marks_are_averaged_over_outcomes_that_have_them():
    rows = [Outcome("a", "answered", 1.0, points={"score": 4.0}), Outcome("b", "unparsed", 0.0)]
    rows += [Outcome("c", "answered", 0.0, points={"score": 1.0})]
    assert mean_points(rows) == {"score": 2.5}
