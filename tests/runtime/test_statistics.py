import pytest

from freqrob.runtime.statistics import rank_correlation


def test_rank_correlation_is_spearmans():
    x, y = [1, 2, 3, 4, 5, 6, 7, 7], [2, 1, 4, 3, 7, 8, 6, 5]
    rho, p = rank_correlation(x, y)
    assert rho == pytest.approx(0.7545045, abs=1e-7) and p == pytest.approx(0.0377, abs=0.005), "scipy.stats.spearmanr"
    assert rank_correlation([1, 2, 3, 10], [0, 1, 5, 6])[0] == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1])[0] == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 1, 2, 2])[0] == pytest.approx(0.8944, abs=1e-4)


@pytest.mark.parametrize("x, y", [([1, 1, 1], [1, 2, 3]), ([1, 2], [2, 2]), ([], [])])
def test_ranks_that_are_all_equal_correlate_with_nothing(x, y):
    assert rank_correlation(x, y) == (0.0, 1.0)
