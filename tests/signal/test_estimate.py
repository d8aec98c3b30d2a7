"""Signal and noise of made-up gradients, whose truth is known."""

import math

import pytest
import torch

from softtokens.signal.estimate import estimate, gram_of, student

ROWS = 50


def gradients(batches: int, noise: float, signal: float, seed: int, dim: int = 40) -> torch.Tensor:
    """[batches, dim]: a vector of squared length `signal`, and noise of squared length `noise`, uneven in size."""
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    deviations *= noise**0.5 / deviations.norm()
    mean = torch.zeros(dim, dtype=torch.float64)
    mean[3] = signal**0.5
    return mean + deviations * torch.randn(batches, dim, generator=generator, dtype=torch.float64)


def estimates(batches: int, noise: float, signal: float, times: int):
    return [estimate(gram_of([*gradients(batches, noise, signal, seed)]), ROWS) for seed in range(times)]


@pytest.mark.parametrize("signal", [0.0, 0.1, 4.0])
@pytest.mark.parametrize("batches", [3, 8])
def test_signal_and_noise_have_no_bias(batches, signal):
    """Within 4 standard errors of the mean over 1,000 repetitions."""
    made = estimates(batches, 1.0, signal, times=1000)
    for values, truth in (([e.signal for e in made], signal), ([e.noise for e in made], ROWS * 1.0)):
        values = torch.tensor(values)
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 1000**0.5


@pytest.mark.parametrize("signal", [0.02, 0.1, 0.5, 4.0, 30.0])
@pytest.mark.parametrize("batches", [3, 8, 16])
def test_nine_of_ten_intervals_hold_the_noise_scale(batches, signal):
    made = estimates(batches, 1.0, signal, times=400)
    truth = ROWS / signal
    held = [e.low <= truth <= (math.inf if e.high is None else e.high) for e in made]
    assert sum(held) > 0.89 * len(held)


@pytest.mark.parametrize("tail", [1.0, 2.0])
@pytest.mark.parametrize("signal", [0.02, 0.5, 4.0])
def test_intervals_hold_where_a_few_batches_are_much_longer(signal, tail):
    """Deviations of the noise are log-normal over batches, with a mean square of 1."""
    generator = torch.Generator().manual_seed(7)
    held = 0
    for seed in range(400):
        lengths = torch.exp(tail * torch.randn(8, 1, generator=generator, dtype=torch.float64) - tail**2)
        noise = gradients(8, 1.0, 0.0, seed) * lengths
        noise[:, 3] += signal**0.5
        e = estimate(gram_of(noise), ROWS)
        held += e.low <= ROWS / signal <= (math.inf if e.high is None else e.high)
    assert held > 0.89 * 400


@pytest.mark.parametrize("batches", [3, 8, 16])
def test_without_signal_none_is_claimed(batches):
    made = estimates(batches, 1.0, 0.0, times=400)
    assert sum(e.noise_scale is not None for e in made) <= 8  # 2 %
    assert all(e.low > 0 and e.high is None for e in made if e.noise_scale is None)


def test_strong_signal_is_measured():
    made = estimates(16, 1.0, 4.0, times=100)
    assert all(e.noise_scale is not None for e in made)
    median = sorted(e.noise_scale for e in made)[50]
    assert median == pytest.approx(ROWS / 4, rel=0.1)
    assert sum(e.cosine for e in made) / 100 == pytest.approx(0.8, abs=0.02)  # 4 / (4 + 1)


def test_the_error_of_the_cosine_is_its_spread():
    made = estimates(8, 1.0, 1.0, times=400)
    spread = float(torch.tensor([e.cosine for e in made]).std())
    assert math.sqrt(sum(e.cosine_error**2 for e in made) / 400) == pytest.approx(spread, rel=0.25)


def test_leaving_one_out_by_formula_is_leaving_one_out():
    """The jackknife of the cosine, done the long way."""
    g = gradients(6, 1.0, 0.5, seed=1)
    unit = g / g.norm(dim=1, keepdim=True)

    def cosine(rows: torch.Tensor) -> float:
        return float(((rows @ rows.T).sum() - len(rows)) / (len(rows) * (len(rows) - 1)))

    without = torch.tensor([cosine(torch.cat([unit[:i], unit[i + 1 :]])) for i in range(6)])
    e = estimate(gram_of(g), ROWS)
    assert e.cosine == pytest.approx(cosine(unit))
    assert e.cosine_error == pytest.approx(float((5 / 6 * (without - without.mean()).square().sum()).sqrt()), rel=1e-4)


def test_equal_gradients_are_all_signal():
    e = estimate(gram_of(torch.ones(4, 9)), ROWS)
    assert (e.norm, e.noise, e.noise_scale) == (3.0, 0.0, 0.0)
    assert e.cosine == pytest.approx(1.0)


def test_gradients_of_zero_agree_with_nothing():
    e = estimate(torch.zeros(4, 4, dtype=torch.float64), ROWS)
    assert (e.norm, e.cosine, e.noise_scale, e.low, e.high) == (0.0, 0.0, None, None, None)
    assert e.is_zero


def test_one_batch_with_a_gradient_says_nothing_of_the_noise_scale():
    one = torch.zeros(4, 9)
    one[2] = 1e4
    e = estimate(gram_of(one), ROWS)
    assert (e.norm, e.cosine, e.signal, e.noise_scale, e.low) == (0.0, 0.0, 0.0, None, None)
    assert not e.is_zero
    assert estimate(torch.eye(4, dtype=torch.float64), ROWS).low is None  # exactly even, with no error


def test_units_do_not_matter():
    g = gradients(8, 1.0, 2.0, seed=4)
    small, large = (estimate(gram_of(g * unit), ROWS) for unit in (1e-12, 1e12))
    assert small.noise_scale == pytest.approx(large.noise_scale)
    assert (small.low, small.high) == pytest.approx((large.low, large.high))


def test_two_batches_are_too_few():
    with pytest.raises(ValueError, match="needs at least 3"):
        estimate(torch.eye(2, dtype=torch.float64), ROWS)


def test_inner_products_in_parts_are_those_of_the_whole():
    g = gradients(5, 1.0, 1.0, seed=2).float()
    torch.testing.assert_close(gram_of(g, chunk=7), (g.double() @ g.double().T))


@pytest.mark.parametrize(("freedom", "table"), [(2, 4.303), (3, 3.182), (7, 2.365), (15, 2.131), (1000, 1.962)])
def test_students_quantile(freedom, table):
    assert student(freedom) == pytest.approx(table, rel=0.01)
