"""Log-probabilities and mixtures over the vocabulary for many rows, without logits for all of them.

Both are attention over the vocabulary, softmax(hidden head^T / temperature), read at one token or mixed over the table.
Rows go through in chunks: the logits of a chunk give the value, the statistics and, in the backward pass (or at once,
where the caller knows the gradient that will come), the gradients of hidden states, head and table, accumulated in
place. Memory: a few times rows x dim, one [vocab, dim] buffer per matrix that takes a gradient, and three chunks.

With p = softmax(z / tau), mu = p E and an upstream gradient u of mu:
    dz = p (E u - p . E u) / tau,   dh = dz W,   dW = dz^T h,   dE = p^T u
For the log-probability of token y and an upstream gradient g:
    dz = g (onehot(y) - p) / temperature
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from softtokens.ops.compiling import compiled_or_plain
from softtokens.ops.mixture import Concentration, single_weights
from softtokens.ops.random import Rows
from softtokens.ops.vocabulary import Vocabulary, full_precision, product

_CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits at once; on the CPU a chunk should stay near its caches
_LEAST_ROWS = 128  # fewer rows make slow matrix products


def token_log_prob(
    vocabulary: Vocabulary,
    hidden: Float[Tensor, "rows dim"],
    tokens: Int[Tensor, "rows *count"],
    temperature: float,
    *,
    expected_gradient: Float[Tensor, "rows"] | None = None,
    chunk_rows: int | None = None,
) -> tuple[Float[Tensor, "rows"], Concentration]:
    """log softmax(logits / temperature) at `tokens` in nats, summed over those of a row if it has several, with
    gradient; and how soft the distribution is.

    expected_gradient: the upstream gradient where it is known
    already; the backward pass is then done along with the forward pass, on the same logits. Another upstream gradient
    is served all the same.
    """
    readout = _AtToken(temperature, tokens[:, None] if tokens.dim() == 1 else tokens)
    return _streamed(vocabulary, hidden, readout, expected_gradient, chunk_rows)


def mixture(
    vocabulary: Vocabulary,
    hidden: Float[Tensor, "rows dim"],
    tau: float,
    *,
    expected_gradient: Float[Tensor, "rows dim"] | None = None,
    chunk_rows: int | None = None,
) -> tuple[Float[Tensor, "rows dim"], Concentration]:
    """softmax(logits / tau) times the table, with gradient; and how soft the weights are.

    Rows in which every weight but one is exactly zero (at tau 1e-4 nearly all) take the embedding of that token and
    need no backward pass; the result is the same. expected_gradient: as in `token_log_prob`.
    """
    return _streamed(vocabulary, hidden, _Mean(tau), expected_gradient, chunk_rows)


def default_chunk_rows(vocabulary: Vocabulary) -> int:
    """Rows of logits that are in memory at once."""
    return chunk_rows_of(vocabulary.size, vocabulary.head.device.type)


def chunk_rows_of(size: int, kind: str) -> int:
    """Rows per chunk for a vocabulary of this size, on a device of this kind (cpu or cuda)."""
    return max(_LEAST_ROWS, _CHUNK_ELEMENTS[kind] // size)


def _streamed(
    vocabulary: Vocabulary, hidden: Tensor, readout: _AtToken | _Mean, expected: Tensor | None, chunk_rows: int | None
) -> tuple[Tensor, Concentration]:
    v = vocabulary.of_known_tokens()
    rows = chunk_rows or default_chunk_rows(v)
    if expected is not None:
        expected = expected.to(full_precision(hidden[:0]).dtype)  # float64 models replay float32 rollouts
    out, *concentration = _Streamed.apply(hidden, v.head, v.bias, v.table, v, readout, expected, rows)
    return out, Concentration(*concentration)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        table: Tensor,
        vocabulary: Vocabulary,
        readout: _AtToken | _Mean,
        expected: Tensor | None,
        chunk_rows: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(hidden, head, bias, table)
        vocabulary = vocabulary.for_repeated_use()
        ctx.rest = vocabulary, readout, chunk_rows
        wanted = ctx.needs_input_grad[:4]
        ctx.expected = expected = expected if any(wanted) else None
        ctx.gradients = None if expected is None else _Gradients(wanted, hidden, vocabulary)
        # Written in place: small results kept from every chunk would lie in the holes that the chunk before left, and
        # the next chunk would need new memory.
        outputs: list[Tensor] = []
        for rows in _slices(hidden, chunk_rows):
            chunk = _Chunk(vocabulary, hidden[rows], readout[rows], with_statistics=True)
            parts = (readout[rows].value(chunk, vocabulary), *chunk.statistics)
            outputs = outputs or [part.new_empty(len(hidden), *part.shape[1:]) for part in parts]
            for whole, part in zip(outputs, parts, strict=True):
                whole[rows] = part
            if expected is not None:
                ctx.gradients.add(rows, chunk, readout[rows], expected[rows])
        ctx.mark_non_differentiable(*outputs[1:])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        vocabulary, readout, chunk_rows = ctx.rest
        gradients = ctx.gradients
        if gradients is None or not torch.equal(upstream, ctx.expected):
            gradients = _Gradients(ctx.needs_input_grad[:4], inputs[0], vocabulary)
            for rows in _slices(inputs[0], chunk_rows):
                chunk = _Chunk(vocabulary, inputs[0][rows], readout[rows], with_statistics=False)
                gradients.add(rows, chunk, readout[rows], upstream[rows])
        ctx.gradients = None
        of_inputs = (None if g is None else g.to(x.dtype) for g, x in zip(gradients.all, inputs, strict=True))
        return (*of_inputs, None, None, None, None)


def _slices(hidden: Tensor, chunk_rows: int) -> list[slice]:
    return [slice(start, start + chunk_rows) for start in range(0, max(1, hidden.shape[0]), chunk_rows)]


class _Chunk:
    """The weights of some rows, [rows, vocab], and their statistics."""

    def __init__(self, vocabulary: Vocabulary, hidden: Tensor, readout: _AtToken | _Mean, *, with_statistics: bool):
        self.hidden = hidden if _in_few_passes(hidden) else full_precision(hidden)
        logits, self.slope = vocabulary.logits_and_slope(self.hidden)
        peak = logits.amax(-1, keepdim=True)
        self.certain = readout.certain(logits, peak)  # bool [rows], or None if not looked for
        self.top = None if self.certain is None else logits.argmax(-1)
        if _in_few_passes(logits):
            self.picked = readout.pick(logits, peak)
            weights, self.log_total, *statistics = _compiled(_softmax)(logits, peak, readout.temperature)
            self.weights, self.statistics = weights, tuple(statistics)
            return
        picked = readout.pick(logits, peak)
        shifted = logits.sub_(peak)
        if vocabulary.may_be_infinite:
            shifted.clamp_(min=torch.finfo(shifted.dtype).min)  # 0 * inf is no number
        if with_statistics:
            p = shifted.exp()
            mass = p.sum(-1)
            entropy = mass.log() - torch.linalg.vecdot(p, shifted) / mass
        scaled = shifted.div_(readout.temperature)
        self.picked = picked
        weights = scaled.exp_()
        total = weights.sum(-1, keepdim=True)
        self.log_total = total[:, 0].log()
        self.weights = weights.div_(total)
        if with_statistics:
            support = 1.0 / torch.linalg.vecdot(self.weights, self.weights)
            self.statistics = (entropy, 1.0 / total[:, 0], support)


def _in_few_passes(x: Tensor) -> bool:
    """Whether a chunk runs as few compiled passes: on a GPU passes over memory are most of its time."""
    return x.is_cuda


def _softmax(logits: Tensor, peak: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """What a chunk needs of its logits, written so that it compiles to one pass for sums and one for weights."""
    shifted = (logits - peak).clamp(min=torch.finfo(logits.dtype).min)
    p = shifted.exp()
    mass = p.sum(-1)
    entropy = mass.log() - (p * shifted).sum(-1) / mass
    weights = (shifted / temperature).exp()
    total = weights.sum(-1)
    support = total.square() / weights.square().sum(-1)
    return weights / total[:, None], total.log(), entropy, 1.0 / total, support


def _mixture_gradient(weights: Tensor, along: Tensor, temperature: float) -> Tensor:
    """Of the logits, from the weights and the table's products with the upstream gradient."""
    return (along - (weights * along).sum(-1, keepdim=True)) * weights / temperature


@functools.cache
def _compiled(function: Callable) -> Callable:
    return compiled_or_plain(function, "operations over the vocabulary")


@dataclasses.dataclass(frozen=True)
class _AtToken:
    """Reads the log-probability of one token per row, or the sum over several."""

    temperature: float
    tokens: Int[Tensor, "rows count"]

    def __getitem__(self, rows: Rows) -> _AtToken:
        return _AtToken(self.temperature, self.tokens[rows])

    def certain(self, logits: Tensor, peak: Tensor) -> None:
        del logits, peak  # what is certain still has a log-probability at another token

    def pick(self, logits: Tensor, peak: Tensor) -> Tensor:
        picked = logits.gather(-1, self.tokens) - peak
        return picked.clamp(min=torch.finfo(picked.dtype).min) / self.temperature

    def value(self, chunk: _Chunk, vocabulary: Vocabulary) -> Tensor:
        assert chunk.picked is not None, "this readout picks"
        return (chunk.picked - chunk.log_total[:, None]).sum(-1)

    def gradient(self, weights: Tensor, upstream: Tensor, vocabulary: Vocabulary) -> Tensor:
        """With respect to the logits, [rows, vocab]; overwrites the weights."""
        upstream = upstream[:, None] / self.temperature
        count = self.tokens.shape[-1]
        return weights.mul_(-count * upstream).scatter_add_(-1, self.tokens, upstream.expand(-1, count))


@dataclasses.dataclass(frozen=True)
class _Mean:
    """Mixes the table."""

    temperature: float

    def __getitem__(self, rows: Rows) -> _Mean:
        return self

    def certain(self, logits: Tensor, peak: Tensor) -> Tensor | None:
        return single_weights(logits, peak, self.temperature)

    def pick(self, logits: Tensor, peak: Tensor) -> None:
        return None

    def value(self, chunk: _Chunk, vocabulary: Vocabulary) -> Tensor:
        if chunk.certain is None or chunk.top is None:
            return vocabulary.mix(chunk.weights)
        out, mixed = vocabulary.embed(chunk.top), ~chunk.certain
        out[mixed] = vocabulary.mix(chunk.weights[mixed])
        return out

    def gradient(self, weights: Tensor, upstream: Tensor, vocabulary: Vocabulary) -> Tensor:
        """With respect to the logits, [rows, vocab]."""
        along = product(upstream * vocabulary.table_scale, vocabulary.table.T, rounds=True)
        if _in_few_passes(along):
            return _compiled(_mixture_gradient)(weights, along, self.temperature)
        along -= torch.linalg.vecdot(weights, along)[:, None]
        return along.mul_(weights).div_(self.temperature)


class _Gradients:
    """Sums of the gradients of hidden states, head, bias and table; None for those not wanted."""

    def __init__(self, wanted: tuple[bool, ...], hidden: Tensor, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        inputs = (hidden, vocabulary.head, vocabulary.bias, vocabulary.table)
        self.all = [
            torch.zeros_like(x, dtype=full_precision(x[:0]).dtype) if want and x is not None else None
            for want, x in zip(wanted, inputs, strict=True)
        ]

    def add(self, rows: slice, chunk: _Chunk, readout: _AtToken | _Mean, upstream: Tensor) -> None:
        hidden_gradient, head, bias, table = self.all
        hidden, weights = chunk.hidden, chunk.weights
        which: slice | Tensor = rows
        slope = chunk.slope
        if chunk.certain is not None and chunk.top is not None:
            if table is not None:
                scaled = upstream[chunk.certain] * self.vocabulary.table_scale
                table.index_add_(0, chunk.top[chunk.certain], scaled)
            mixed = torch.nonzero(~chunk.certain)[:, 0]
            which = mixed + rows.start
            hidden, weights, upstream, readout = hidden[mixed], weights[mixed], upstream[mixed], readout[mixed]
            slope = slope[mixed] if torch.is_tensor(slope) else slope
        if table is not None and isinstance(readout, _Mean):
            self._add_product(table, weights.T, upstream * self.vocabulary.table_scale)
        if hidden_gradient is None and head is None and bias is None:
            return
        of_logits = readout.gradient(weights, upstream, self.vocabulary)
        if torch.is_tensor(slope) or slope != 1.0:
            of_logits *= slope
        if _in_few_passes(of_logits):
            of_logits = of_logits.to(self.vocabulary.head.dtype)  # once for all three products
        if hidden_gradient is not None:
            hidden_gradient[which] = product(of_logits, self.vocabulary.head)
        if head is not None:
            self._add_product(head, of_logits.T, hidden)
        if bias is not None:
            bias += of_logits.sum(0, dtype=bias.dtype)

    def _add_product(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        half = self.vocabulary.head.dtype
        if total.is_cuda and half != total.dtype:  # sums stay in float32
            torch.addmm(total, a.to(half), b.to(half), out_dtype=torch.float32, out=total)
        else:
            total.addmm_(a, b)
