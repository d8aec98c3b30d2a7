"""Philox compared with its published known answers, and the statistics and independence of the numbers built on it."""

import pytest
import torch

from softtokens.ops.random import MIRRORED, Keys, Stream, philox, philox_by_word, seed_words


def words(*values):
    return [torch.tensor([v], dtype=torch.int64) for v in values]


# Known-answer tests published with Random123 (kat_vectors: philox 4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected):
    seed = seed_words(key[0] | key[1] << 32, torch.device("cpu"))
    assert [int(word) for word in philox(words(*counter), seed)] == list(expected)
    assert [int(word) for word in philox_by_word(words(*counter), seed)] == list(expected)


def keys(rows, seed=7):
    return Keys(seed, torch.arange(rows) // 4, torch.arange(rows) % 4)


def test_mirrored_rollouts_have_opposite_normals_and_uniforms_of_their_own():
    pairs = Keys(7, torch.zeros(4, dtype=torch.int64), MIRRORED + torch.arange(4)).at(5, Stream.THOUGHT)
    normals, uniforms = pairs.normal(37), pairs.uniform()
    assert torch.equal(normals[1], -normals[0]) and torch.equal(normals[3], -normals[2])
    assert not torch.equal(normals[2].abs(), normals[0].abs())
    assert len(set(uniforms.tolist())) == 4


def test_rows_do_not_depend_on_their_batch():
    whole = keys(32).at(5, Stream.THOUGHT).normal(37)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:9]
    assert torch.equal(keys(32)[order].at(5, Stream.THOUGHT).normal(37), whole[order])


def test_every_part_of_the_name_matters():
    def draw(seed=7, problem=1, rollout=2, step=3, stream=Stream.THOUGHT):
        return Keys(seed, torch.tensor([problem]), torch.tensor([rollout])).at(step, stream).normal(8)

    draws = [
        draw(),
        draw(seed=8),
        draw(seed=7 + 2**40),
        draw(problem=2),
        draw(rollout=3),
        draw(step=4),
        draw(stream=Stream.ANSWER),
    ]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert not torch.equal(first, second)


def test_normals_are_standard_normal():
    x = keys(200).at(0, Stream.THOUGHT).normal(5000).double()  # 1e6 numbers: 6 standard errors each way, < 1e-8
    assert abs(x.mean()) < 6e-3
    assert abs(x.var() - 1) < 6 * (2 / 1e6) ** 0.5
    assert abs((x**4).mean() - 3) < 6 * (96 / 1e6) ** 0.5
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 6e-3


def test_uniforms_fill_the_unit_interval():
    u = torch.cat([keys(1000).at(step, Stream.ANSWER).uniform() for step in range(100)])
    assert u.dtype == torch.float64 and u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, bins=10, min=0, max=1)
    assert ((counts - 1e4) ** 2 / 1e4).sum() < 50  # chi-square with 9 degrees of freedom: p < 1e-7


def test_several_uniforms_are_independent_of_each_other_and_of_normals():
    step = keys(200).at(0, Stream.THOUGHT)
    u = step.uniforms(5001, after=7)
    assert torch.equal(step.uniforms(3)[:, 0], step.uniform())
    assert torch.equal(step.uniforms(3), step.uniforms(8)[:, :3])
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 6 / (12 * 1e6) ** 0.5
    assert abs(((u[:, 1:] - 0.5) * (u[:, :-1] - 0.5)).mean()) < 6 / 12e3
    # normals and uniforms of the same bits would be functions of each other
    rows = keys(20_000).at(0, Stream.THOUGHT)
    normal, uniform = rows.normal(7).double(), rows.uniforms(4, after=7)
    products = (normal.square()[:, :, None] - 1) * (uniform[:, None] - 0.5)
    assert products.mean(0).abs().max() < 6 * (2 / 12) ** 0.5 / 20_000**0.5
    assert not torch.equal(uniform, rows.uniforms(4))


@pytest.mark.parametrize("shape", [1e-4, 0.3, 1.0, 7.5, 1e5])
def test_log_gammas_have_the_moments_of_the_gamma_distribution(shape):
    """Of the logarithm, which small shapes spread widely, and of the number itself."""
    n = 200_000
    logs = keys(n // 4).at(0, Stream.THOUGHT).log_gammas(torch.full((n // 4, 4), shape, dtype=torch.float64)).flatten()
    a = torch.tensor(shape, dtype=torch.float64)
    assert logs.isfinite().all()
    assert abs(logs.mean() - torch.digamma(a)) < 6 * logs.std() / n**0.5
    squares = (logs - torch.digamma(a)).square()
    assert abs(squares.mean() - torch.polygamma(1, a)) < 6 * squares.std() / n**0.5
    assert abs(logs.exp().mean() - a) < 6 * (shape / n) ** 0.5
    # the distribution function at the deciles of the sample: 6 standard errors of a share
    if shape >= 0.3:
        deciles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        at = torch.special.gammainc(a, logs.sort().values[(deciles * n).long()].exp())
        assert (at - deciles).abs().max() < 6 * 0.5 / n**0.5


def test_log_gammas_do_not_depend_on_their_batch_and_differ_within_a_row():
    shape = torch.full((30, 3), 0.8)
    step = keys(30).at(4, Stream.THOUGHT)
    whole, rows = step.log_gammas(shape), torch.tensor([7, 21])
    torch.testing.assert_close(step[rows].log_gammas(shape[rows]), whole[rows], rtol=1e-12, atol=0)
    centred = whole - whole.mean(0)
    assert len(whole.unique()) == 90 and (torch.corrcoef(centred.T) - torch.eye(3)).abs().max() < 0.9


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        keys(1, seed)
