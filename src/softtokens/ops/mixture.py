"""Probabilities over the vocabulary, drawing from them, and how concentrated they are."""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary, full_precision, product


def tempered_softmax(logits: Float[Tensor, "rows vocab"], temperature: float) -> Float[Tensor, "rows vocab"]:
    """softmax(logits / temperature). The maximum is subtracted before the division: at temperature 1e-4 a float32
    quotient of raw logits would be off by whole units in the exponent."""
    return torch.softmax(_shifted(logits, temperature), dim=-1)


def tempered_log_softmax(logits: Float[Tensor, "rows vocab"], temperature: float) -> Float[Tensor, "rows vocab"]:
    return torch.log_softmax(_shifted(logits, temperature), dim=-1)


def _shifted(logits: Float[Tensor, "rows vocab"], temperature: float) -> Float[Tensor, "rows vocab"]:
    return (logits - logits.detach().amax(dim=-1, keepdim=True)) / temperature


def single_weights(
    logits: Float[Tensor, "rows vocab"], peak: Float[Tensor, "rows 1"], temperature: float
) -> Bool[Tensor, "rows"] | None:
    """The rows in which all weights but one are exactly zero. None where there can hardly be any."""
    limits = torch.finfo(logits.dtype)
    # beyond this distance exp gives zero, even as a denormal number
    gap = -(math.log(limits.smallest_normal) + math.log(limits.eps / 2)) * temperature
    return (logits >= peak - gap).sum(-1) == 1 if gap < 5 else None


def mixture_of(
    logits: Float[Tensor, "rows vocab"], temperature: float, vocabulary: Vocabulary
) -> Float[Tensor, "rows dim"]:
    """softmax(logits / temperature) times the table, without gradient.

    On the CPU, when every row has a single weight, it is that token's embedding and costs no product: at tau 1e-4 the
    usual case. (Not row by row: products of fewer rows would have other bits.)
    """
    single = None
    if logits.device.type == "cpu":
        single = single_weights(logits, logits.amax(-1, keepdim=True), temperature)
    if single is None:
        return vocabulary.mix(tempered_softmax(logits, temperature))
    if torch.compiler.is_compiling():
        # the branches of torch.cond take tensors only
        branches = (_most_likely, _weighted_mean)
        mixed = torch.cond(single.all(), *branches, (_shifted(logits, temperature), vocabulary.table))
        return mixed * vocabulary.table_scale
    if bool(single.all()):
        return vocabulary.embed(arg_max(logits))
    return vocabulary.mix(tempered_softmax(logits, temperature))


def _most_likely(shifted: Tensor, table: Tensor) -> Tensor:
    return full_precision(torch.nn.functional.embedding(arg_max(shifted), table)).to(shifted.dtype)


def _weighted_mean(shifted: Tensor, table: Tensor) -> Tensor:
    return product(torch.softmax(shifted, dim=-1), table)


def draw_tokens(
    logits: Float[Tensor, "rows vocab"], temperature: float | Float[Tensor, "rows"], keys: StepKeys
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"], Bool[Tensor, "rows"]]:
    """A token of each row from softmax(logits / temperature), its log-probability, and whether the row is no number.

    temperature: one, or one per row; 0 takes the arg-max, whose log-probability is 0. Waits for nothing on the device.
    """
    token, log_prob, broken = draw_several_tokens(logits, temperature, keys, 1)
    return token[:, 0], log_prob[:, 0], broken


def draw_several_tokens(
    logits: Float[Tensor, "rows vocab"], temperature: float | Float[Tensor, "rows"], keys: StepKeys, count: int
) -> tuple[Int[Tensor, "rows count"], Float[Tensor, "rows count"], Bool[Tensor, "rows"]]:
    """As `draw_tokens`, `count` independent tokens of each row; the first is that of `draw_tokens`."""
    peak = logits.amax(dim=-1, keepdim=True)
    broken = ~peak[:, 0].isfinite()
    if not torch.is_tensor(temperature) and temperature == 0:
        return arg_max(logits)[:, None].expand(-1, count), peak.new_zeros(len(peak), count), broken
    scaled = logits - peak
    if torch.is_tensor(temperature):
        warm = temperature > 0
        scaled /= torch.where(warm, temperature, 1.0)[:, None]
    elif temperature != 1.0:
        scaled /= temperature
    weights = scaled.exp()
    total = weights.sum(-1)
    token = torch.stack([draw(weights, uniform) for uniform in keys.uniforms(count).unbind(-1)], dim=-1)
    log_prob = scaled.gather(-1, token) - total.log()[:, None]
    if torch.is_tensor(temperature):
        warm = warm[:, None]
        token, log_prob = torch.where(warm, token, arg_max(logits)[:, None]), torch.where(warm, log_prob, 0.0)
    return token, log_prob, broken | ~total.isfinite()


_BLOCK = 128


def draw(weights: Float[Tensor, "rows vocab"], uniform: Float64[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    """Tokens by inverting the cumulative sum of the weights at `uniform`, in [0, 1). Weights need not sum to one;
    tokens of weight zero are never drawn.

    In two stages, block and token within it, so that few numbers need the float64 sums that give rare tokens of a large
    vocabulary their share.
    """
    rows, vocab = weights.shape
    whole = vocab // _BLOCK * _BLOCK
    blocks = [weights[:, :whole].view(rows, -1, _BLOCK).sum(-1), weights[:, whole:].sum(-1, keepdim=True)]
    block, rest = _invert(torch.cat(blocks, dim=1), uniform)
    position = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = torch.where(position < vocab, weights.gather(-1, position.clamp(max=vocab - 1)), 0.0)
    token = position.gather(-1, _invert(inside, rest)[0][:, None])[:, 0]
    return token.clamp(max=vocab - 1)  # NaN weights may give any index


def _invert(
    weights: Float[Tensor, "rows choices"], uniform: Float64[Tensor, "rows"]
) -> tuple[Int[Tensor, "rows"], Float64[Tensor, "rows"]]:
    """Which weight the share `uniform` of the total falls into, and how far into it, in [0, 1)."""
    cumulative = weights.to(torch.float64).cumsum(dim=-1)
    target = (uniform * cumulative[:, -1])[:, None]
    chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=weights.shape[-1] - 1)
    end = cumulative.gather(-1, chosen)
    inside = 1 - (end - target) / weights.to(torch.float64).gather(-1, chosen)
    return chosen[:, 0], inside[:, 0].clamp(0, 1 - 2.0**-52)


def arg_max(logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
    """The first largest logit of each row. Searching the block of the maximum is an order of magnitude
    faster on the CPU than argmax over a large vocabulary."""
    rows, vocab = logits.shape
    whole = vocab // _BLOCK * _BLOCK
    if whole == 0:
        return logits.argmax(-1)
    peaks = logits[:, :whole].view(rows, -1, _BLOCK).amax(-1)
    if whole < vocab:
        peaks = torch.cat((peaks, logits[:, whole:].amax(-1, keepdim=True)), dim=1)
    position = peaks.argmax(-1, keepdim=True) * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inside = torch.where(position < vocab, logits.gather(-1, position.clamp(max=vocab - 1)), float("-inf"))
    return position.gather(-1, inside.argmax(-1, keepdim=True))[:, 0].clamp(max=vocab - 1)


@dataclasses.dataclass(frozen=True)
class Concentration:
    """How soft a distribution over tokens is."""

    entropy: Float[Tensor, "rows"]  # nats, of softmax(logits), temperature 1 whatever the mixture's
    max_weight: Float[Tensor, "rows"]  # largest weight at the mixture's temperature
    effective_support: Float[Tensor, "rows"]  # 1 / sum of squared weights at the mixture's temperature

    @staticmethod
    @torch.no_grad()
    def of(logits: Float[Tensor, "rows vocab"], temperature: float) -> Concentration:
        """temperature 0 stands for the arg-max token alone."""
        p = tempered_softmax(logits, 1.0)
        # xlogy: rows beyond the tokenizer have p = 0 and add nothing
        entropy = -torch.xlogy(p, p).sum(-1)
        if temperature == 0:
            one = torch.ones_like(entropy)
            return Concentration(entropy, one, one)
        weights = p if temperature == 1.0 else tempered_softmax(logits, temperature)
        return Concentration(entropy, weights.amax(-1), 1.0 / weights.square().sum(-1))
