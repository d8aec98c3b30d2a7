"""Mixtures and log-probabilities over the vocabulary, forward and backward: time and peak memory.

Beside ours: keeping the logits of all rows for autograd, and torch's `scaled_dot_product_attention` with the head as
keys and the table as values, which gives the mixture (but no log-probability and none of the statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from benchmarks.engine.fresh import MEGABYTE, peak_memory
from benchmarks.engine.measure import CLOCKS, WALL, Row, busyness, compared, take_turns
from benchmarks.engine.subject import Sizes
from torch import Tensor
from torch.nn.functional import log_softmax, scaled_dot_product_attention

from softtokens.ops import streamed
from softtokens.ops.vocabulary import Vocabulary

TAU = 0.5
WAYS = {"mixture": ("ours", "materialised", "attention"), "log-prob": ("ours", "materialised")}


def rows(sizes: Sizes) -> Iterator[Row]:
    for shape in sizes.streamed:
        for what, ways in WAYS.items():
            name = f"{what}, {' x '.join(f'{n:,}' for n in shape)}"
            competitors: dict[str, Callable[[], object]] = {way: prepare(what, way, *shape) for way in ways}
            for clock in CLOCKS:
                rounds = sizes.rounds if clock == WALL else sizes.slow_rounds
                seconds, busy = take_turns(competitors, clock, rounds, warm=clock != WALL)
                for other in ways[1:]:
                    yield compared(seconds, "ours", other, idea="streamed", what=name, clock=clock, busy=busy)
            del competitors
            yield from _memory(what, ways, shape, name, fresh=sizes.rounds > 1)


def _memory(what: str, ways: tuple[str, ...], shape: tuple[int, ...], name: str, *, fresh: bool) -> Iterator[Row]:
    with busyness() as busy:
        measured = {
            way: peak_memory("benchmarks.engine.streamed:prepare", [what, way, *shape], fresh=fresh) for way in ways
        }
    taken = {way: max(1.0, sizes["peak"] - sizes["before"]) for way, sizes in measured.items()}
    for other in ways[1:]:
        yield Row(
            idea="streamed",
            what=name,
            clock="peak memory",
            ours=f"+{taken['ours'] / MEGABYTE:,.0f} MB",
            compared_with=other,
            theirs=f"+{taken[other] / MEGABYTE:,.0f} MB",
            ratio=taken[other] / taken["ours"],
            samples={"ours": [taken["ours"]], other: [taken[other]]},
            busy=busy[0],
        )


def prepare(what: str, way: str, count: int, dim: int, vocab: int) -> Callable[[], None]:
    """One forward and backward pass over a tied vocabulary, with a gradient from above that is known beforehand."""
    torch.set_flush_denormal(True)  # also in a process of its own
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, dim, generator=generator).requires_grad_()
    table = (torch.randn(vocab, dim, generator=generator) / dim**0.5).requires_grad_()
    tokens = torch.randint(vocab, (count,), generator=generator)
    upstream = torch.randn((count, dim) if what == "mixture" else (count,), generator=generator)

    def forward() -> Tensor:
        if way == "ours":
            vocabulary = Vocabulary(table, table, vocab)
            if what == "mixture":
                return streamed.mixture(vocabulary, hidden, TAU, expected_gradient=upstream)[0]
            return streamed.token_log_prob(vocabulary, hidden, tokens, 1.0, expected_gradient=upstream)[0]
        if way == "attention":
            query, key = hidden[None, None], table[None, None]
            return scaled_dot_product_attention(query, key, key, scale=1 / TAU)[0, 0]
        logits = hidden @ table.T
        if what == "mixture":
            return (logits / TAU).softmax(-1) @ table
        return log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]

    def run() -> None:
        hidden.grad = table.grad = None
        forward().backward(upstream)

    return run
