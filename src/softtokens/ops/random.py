"""Random numbers that depend on *what* is drawn, never on when: Philox4x32-10, keyed by counters.

A draw is named by (seed, problem, rollout, stream, step). The same name gives the same numbers in any batch, order,
process or device, so a rollout can be repeated alone, resumed, or dealt over processes without storing a state.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and its known answers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10
MIRRORED = 1 << 31  # added to a rollout's number: an odd one has the negated normal noise of the even one before it
_GAMMA_PROPOSALS = 8  # each is accepted with probability 0.95 or more
_STEP_BITS = 24  # bits for the step; the bits above them name the stream


Rows = slice | Tensor | list[int]  # a range, indices, or a bool mask [rows]


class Stream(enum.IntEnum):
    """The purpose of the numbers; different streams of one step are independent."""

    THOUGHT = 0
    ANSWER = 1


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of the random numbers of a batch of rollouts: one row each.

    seed: the run's seed, or `evaluation_seed` of it, 0 <= seed < 2**64. problem: in 0 .. 2**32 - 1. rollout: in
    0 .. 2**31 - 1, plus MIRRORED for antithetic noise.
    """

    seed: int
    problem: Int[Tensor, "rows"]
    rollout: Int[Tensor, "rows"]

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must be in 0 .. 2**64 - 1")

    def __getitem__(self, rows: Rows) -> Keys:
        return Keys(self.seed, self.problem[rows], self.rollout[rows])

    def at(self, step: int | Int[Tensor, "*rows"], stream: Stream | Int[Tensor, "*rows"]) -> StepKeys:
        """The keys of one step (one number, or one per row) of every row; the stream too may differ by row."""
        step = torch.as_tensor(step, device=self.problem.device, dtype=torch.int64).expand_as(self.problem)
        return StepKeys.of(seed_words(self.seed, self.problem.device), self.problem, self.rollout, step, stream)


def evaluation_seed(seed: int) -> int:
    """The seed of evaluations. User seeds are below 2**63 and name the random numbers of training; evaluations use
    the other half. Otherwise an evaluation on the training problems would replay the noise that training reinforced."""
    return seed + 2**63


@dataclasses.dataclass(frozen=True)
class SeedWords:
    """A seed's contribution to Philox, one number for each pair of words. Made by `seed_words`."""

    multipliers: Int[Tensor, "2 1"]
    of_round: Int[Tensor, "10 2 1"]


@dataclasses.dataclass(frozen=True)
class StepKeys:
    """Keys of one draw for each row. Made by `Keys.at`."""

    seed: SeedWords
    problem: Int[Tensor, "rows"]
    rollout: Int[Tensor, "rows"]
    step: Int[Tensor, "rows"]

    @staticmethod
    def of(seed: SeedWords, problem: Tensor, rollout: Tensor, step: Tensor, stream: Stream | Tensor) -> StepKeys:
        return StepKeys(seed, problem, rollout, stream * 2**_STEP_BITS + step)

    def __getitem__(self, rows: Rows) -> StepKeys:
        return StepKeys(self.seed, self.problem[rows], self.rollout[rows], self.step[rows])

    def _words(self, blocks: int, *, rollout: Tensor | None = None, first: int = 0) -> Tensor:
        """32-bit words, int64 [rows, blocks, 4]. rollout: instead of the rows' own."""
        rows, rollout = self.problem.shape[0], self.rollout if rollout is None else rollout
        block = torch.arange(first, first + blocks, device=self.problem.device, dtype=torch.int64).expand(rows, blocks)
        counter = [block] + [word[:, None].expand(rows, blocks) for word in (self.step, rollout, self.problem)]
        return torch.stack(philox(counter, self.seed), dim=-1)

    def normal(self, n: int) -> Float32[Tensor, "rows n"]:
        """Standard normal numbers (Box-Muller; largest magnitude 5.9); those of an odd mirrored rollout are the negated
        ones of the rollout before it."""
        negated = self.rollout & (self.rollout >> 31)  # the last bit of a mirrored rollout, else 0
        words = self._words(-(-n // 4), rollout=self.rollout - negated)
        uniform = ((words >> 8).to(torch.float32) + 0.5) * 2.0**-24  # 24 bits fit float32 exactly; never 0 or 1
        radius = (-2.0 * uniform[..., 0::2].log()).sqrt()
        angle = 2.0 * math.pi * uniform[..., 1::2]
        pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
        return pairs.flatten(1)[:, :n] * (1 - 2 * negated)[:, None]

    def uniform(self) -> Float64[Tensor, "rows"]:
        """Uniform numbers in [0, 1), in steps of 2**-52."""
        return self.uniforms(1)[:, 0]

    def uniforms(self, n: int, *, after: int = 0) -> Float64[Tensor, "rows n"]:
        """Several per row; the first is that of `uniform`. after: they are independent of `normal(after)`, which
        otherwise comes from the same bits."""
        words = self._words(-(-n // 2), first=-(-after // 4)).unflatten(-1, (2, 2))
        return ((words[..., 0] << 20) + (words[..., 1] >> 12)).flatten(1)[:, :n].to(torch.float64) * 2.0**-52

    def log_gammas(self, shape: Float[Tensor, "rows n"]) -> Float64[Tensor, "rows n"]:
        """Logarithms of Gamma(shape, 1) numbers, each of its own positive shape. Logarithms, because numbers of a
        small shape are far below the smallest float.

        Gamma(shape + 1) by rejection, times uniform ** (1 / shape). The number of proposals is fixed, so that nothing
        depends on values; all are rejected once in 1e10 numbers, and then the first is taken.
        Source: Marsaglia, Tsang, "A simple method for generating gamma variables" (TOMS 2000).
        """
        n, shape = shape.shape[1], shape.to(torch.float64)
        proposals = n * _GAMMA_PROPOSALS
        normal = self.normal(proposals).to(torch.float64).unflatten(-1, (n, _GAMMA_PROPOSALS))
        uniform = self.uniforms(proposals + n, after=proposals) + 2.0**-53  # in (0, 1)
        boost, uniform = uniform[:, :n], uniform[:, n:].unflatten(-1, (n, _GAMMA_PROPOSALS))
        d = (shape + 2 / 3)[..., None]  # shape + 1 - 1/3
        v = (1 + normal / (3 * d.sqrt())).pow(3)
        log_v = v.clamp(min=torch.finfo(torch.float64).tiny).log()
        accepted = (v > 0) & (uniform.log() < 0.5 * normal.square() + d - d * v + d * log_v)
        first = accepted.to(torch.uint8).argmax(-1, keepdim=True)
        return d[..., 0].log() + log_v.gather(-1, first)[..., 0] + boost.log() / shape


def philox(counter: list[Tensor], seed: SeedWords) -> list[Tensor]:
    """Philox4x32-10: four words of counter (int64 tensors holding 32 bits) to four random words.

    Words 0, 2 and words 1, 3 go through each round together: half as many operations. int64 wraps in a product, which
    leaves its 64 bits as they should be; only what is multiplied next has to be cut to 32 bits.
    """
    if torch.compiler.is_compiling():
        return philox_by_word(counter, seed)
    even, odd = (torch.stack((counter[i], counter[i + 2])).flatten(1) for i in (0, 1))
    for key in seed.of_round.unbind():
        product = even.flip(0).mul_(seed.multipliers)  # each from the other pair: Philox swaps the words
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(key).bitwise_and_(_LOW)
        odd = product
    odd = odd & _LOW
    return [word.view_as(counter[0]) for word in (even[0], odd[0], even[1], odd[1])]


def philox_by_word(counter: list[Tensor], seed: SeedWords) -> list[Tensor]:
    """`philox` as its paper writes it, which a compiler makes one loop of: three times as fast as the pairs compiled,
    and slower than they are where operations run one by one."""
    a, b, c, d = counter
    for key in seed.of_round:
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = ((second >> 32) ^ b ^ key[0]) & _LOW, ((first >> 32) ^ d ^ key[1]) & _LOW
        b, d = second & _LOW, first & _LOW
    return [a, b, c, d]


@functools.lru_cache(maxsize=16)
def seed_words(seed: int, device: torch.device) -> SeedWords:
    """Cached: building these tensors synchronises with the GPU, which is not allowed while a CUDA graph is captured."""
    key = (seed & _LOW, seed >> 32)
    rounds = [[(k + i * weyl) & _LOW for k, weyl in zip(key, _WEYL, strict=True)] for i in range(_ROUNDS)]
    pairs = torch.tensor([_MULTIPLIERS[::-1], *rounds], device=device)[..., None]
    return SeedWords(pairs[0], pairs[1:])
