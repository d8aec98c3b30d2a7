"""Sketches preserve inner products: without bias, within the error of their size, and linearly."""

import pytest
import torch

from softtokens.ops import sketch as module
from softtokens.ops.sketch import CountSketch


@pytest.fixture(scope="module")
def vectors():
    """Two vectors with a cosine of about 0.3, of entries that differ much in size."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5000, generator=generator)
    sizes = torch.linspace(0, 3, 5000).exp()
    return x * sizes, (0.3 * x + y) * sizes


def products(size: int, x: torch.Tensor, y: torch.Tensor, seeds: int) -> torch.Tensor:
    of_seeds = [CountSketch(size, seed) for seed in range(seeds)]
    return torch.stack([sketch.of([x]) @ sketch.of([y]) for sketch in of_seeds])


def test_inner_products_and_squares_have_no_bias(vectors):
    """Within 4 standard errors, which are exceeded once in 16,000 times."""
    for x, y in (vectors, (vectors[0], vectors[0])):
        drawn = products(64, x, y, seeds=400)
        exact = x.double() @ y.double()
        assert abs(drawn.mean() - exact) < 4 * drawn.std() / 400**0.5
        assert drawn.std() > 0.01 * exact  # the estimate does vary


def test_the_error_shrinks_with_the_root_of_the_size(vectors):
    x, y = (v.double() for v in vectors)
    bound = (x.square().sum() * y.square().sum() + (x @ y) ** 2).sqrt()
    for size in (64, 1024, 16384):
        error = products(size, *vectors, seeds=200).sub(x @ y).square().mean().sqrt()
        assert 0.8 < error * size**0.5 / bound < 1.2  # 200 seeds measure it to 5 %


def test_sketches_of_parts_add_up(vectors):
    x, y = vectors
    sketch = CountSketch(128, seed=3)
    torch.testing.assert_close(sketch.of([2 * x - y]), 2 * sketch.of([x]) - sketch.of([y]), rtol=1e-6, atol=1e-4)


def test_neither_chunks_nor_the_shapes_of_parameters_matter(vectors, monkeypatch):
    whole = CountSketch(128).of([vectors[0]])
    parts = [vectors[0][:7], vectors[0][7:4007].view(40, 100), vectors[0][4007:]]
    monkeypatch.setitem(module._CHUNK, "cpu", 13)
    torch.testing.assert_close(CountSketch(128).of(parts), whole)


def test_seeds_differ_and_positions_do_not_collide_in_a_pattern():
    """Each entry goes somewhere else under another seed, and entries spread evenly: chi-squared within 5 sigma."""
    places, signs = zip(*(CountSketch(100, seed)._hashed(0, 100_000, torch.device("cpu")) for seed in (0, 1)))  # noqa: B905
    assert abs(float((places[0] == places[1]).double().mean()) - 0.01) < 0.002
    assert abs(float((signs[0] * signs[1]).double().mean())) < 0.02
    counts = torch.bincount(places[0], minlength=100).double()
    assert len(counts) == 100
    assert abs((counts - 1000).square().sum() / 1000 - 99) < 5 * (2 * 99) ** 0.5


@pytest.mark.parametrize("size", [0, 63, 2**31])
def test_a_size_that_cannot_work_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        CountSketch(size)
