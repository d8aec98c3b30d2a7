"""How long the scores of thoughts are, and those that are too long.

The score of a thought step is the gradient of its log-probability with respect to the hidden state it came from. Where
two logits nearly tie at a small temperature it is thousands of times longer than elsewhere, and one step decides the
whole update (docs/method.md). The unit of length is that of the rows of the head, which is about what a hard token's
score measures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softtokens.ops.vocabulary import Vocabulary, full_precision
from softtokens.thoughts import Draw, Thought

_ROWS = 4096  # rows of the head measured at a time


class Spikes:
    """Watches the backward pass. limit: scores longer than this are spikes. clips: scale them down to it.

    unit: from `unit_of`. gradient_scale: what losses are multiplied by before the backward pass.
    """

    def __init__(self, limit: float, *, clips: bool, unit: float, gradient_scale: float = 1.0):
        self.limit, self.clips, self.unit, self.gradient_scale = limit, clips, unit, gradient_scale
        self._lengths: list[Tensor] = []

    def scale(self, thought: Thought, hidden: Tensor, vocabulary: Vocabulary, drawn: Draw) -> Tensor:
        """Factors for the steps' log-probabilities, [rows]: 1, or less for a spike. Costs another pass over the
        vocabulary."""
        leaf = hidden.detach().requires_grad_()
        with torch.enable_grad():
            ones = torch.ones(len(hidden), device=hidden.device)
            scores = thought.score(leaf, vocabulary.for_repeated_use(), drawn, ones)
            (gradient,) = torch.autograd.grad(scores.surrogate, leaf, ones)
        length = full_precision(gradient).norm(dim=-1) / self.unit
        return torch.where(length > self.limit, self.limit / length, 1.0)

    def watch(self, hidden: Tensor, coefficient: Tensor) -> None:
        """Measure the scores when the gradient of these hidden states [rows, dim] arrives. coefficient: [rows], what
        the log-probabilities are multiplied by in the loss; where it is 0 nothing arrives, and nothing is measured."""
        scale = (coefficient.abs() * (self.gradient_scale * self.unit)).detach()

        def measure(gradient: Tensor) -> None:
            counts = scale > 0
            self._lengths.append(full_precision(gradient.detach())[counts].norm(dim=-1) / scale[counts])

        hidden.register_hook(measure)

    def forget(self) -> None:
        """Drop all measurements, because the backward pass starts over."""
        self._lengths.clear()

    @property
    def count(self) -> int:
        return int((self._all() > self.limit).sum())

    @property
    def longest(self) -> float:
        """The longest score, in units; 0 if nothing was measured."""
        lengths = self._all()
        return float(lengths.max()) if len(lengths) else 0.0

    def _all(self) -> Tensor:
        return torch.cat(self._lengths) if self._lengths else torch.zeros(0)


def unit_of(vocabulary: Vocabulary) -> float:
    """Root mean square of the lengths of the head's rows."""
    head = vocabulary.head.detach()
    # A float32 copy of a whole head takes gigabytes. Results are written in place: small tensors kept from every piece
    # would fragment the memory.
    squares = full_precision(head.new_empty(len(head)))
    for rows, into in zip(head.split(_ROWS), squares.split(_ROWS), strict=True):
        into.copy_(full_precision(rows).square().sum(-1))
    return float(squares[vocabulary.tokens].mean().sqrt())
