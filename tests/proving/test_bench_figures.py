"""Statistics of the benchmark, against data and tables made by hand."""

import itertools

import pytest

from verlock.proving import bench_figures
from verlock.proving.bench_figures import percentile, ratio, summary


def test_a_summary_by_hand():
    found = summary([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    assert (found.count, found.median, found.p95, found.least, found.most) == (6, 2.5, 6.0, 1.0, 6.0)
    assert found.spread == pytest.approx((4.0 - 2.0) / 2.5)
    assert found.burst == pytest.approx(6.0 / 2.5)
    assert summary([[3.0, 3.0]]).spread is None


def test_p95_of_twenty_is_the_nineteenth_and_of_fewer_the_largest():
    assert percentile(range(1, 21), 0.95) == 19
    assert percentile(range(1, 20), 0.95) == 19
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_one_burst_moves_the_largest_and_not_the_median():
    even = summary([[10.0] * 20])
    burst = summary([[10.0] * 19 + [35.0]])
    assert (even.burst, burst.burst) == (1.0, 3.5) and even.median == burst.median and burst.p95 == 10.0


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (3, 3), (4, 2)])
def test_the_orders_are_those_that_counting_finds(m, n):
    counted = [0] * (m * n + 1)
    for places in itertools.combinations(range(m + n), m):
        others = [place for place in range(m + n) if place not in places]
        counted[sum(one < other for one in places for other in others)] += 1
    assert bench_figures._orders(m, n) == counted


@pytest.mark.parametrize(
    ("count", "cut", "confidence"),
    [
        (3, 1, 0.90),  # the widest interval that three and three give
        (4, 1, 1 - 2 / 70),
        (5, 3, 1 - 2 * 4 / 252),  # tables of the Mann-Whitney test: U of 2 for 5 and 5 at 5 %
        (8, 14, None),  # U of 13 for 8 and 8
    ],
)
def test_the_interval_is_that_of_the_mann_whitney_test(count, cut, confidence):
    slow, fast = [float(10 + each) for each in range(count)], [float(5 + each * 0.1) for each in range(count)]
    pairs = sorted(a / b for a in slow for b in fast)
    found = ratio(slow, fast)
    assert (found.low, found.high) == (pairs[cut - 1], pairs[-cut])
    assert found.confidence == pytest.approx(confidence) if confidence else found.confidence >= 0.95
    assert found.low <= found.estimate <= found.high


def test_one_iteration_each_is_sure_of_nothing():
    found = ratio([3.0], [2.0])
    assert (found.estimate, found.confidence) == (1.5, 0.0)


def test_a_burst_in_one_list_hardly_moves_the_ratio():
    assert ratio([20.0] * 9 + [80.0], [10.0] * 10).estimate == 2.0
