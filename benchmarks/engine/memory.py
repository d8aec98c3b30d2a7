"""Peak memory of scoring long rollouts with a large vocabulary, compared with keeping all logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from benchmarks.engine.fresh import MEGABYTE, peak_memory
from benchmarks.engine.measure import Row, busyness
from benchmarks.engine.subject import ANSWER_TOKENS, SIGMA, Sizes, model_of, policy_of

from softtokens.endings import LIMIT
from softtokens.models.hf import HFPolicy
from softtokens.ops.random import Keys, Stream
from softtokens.rollout.record import Kind, Rollout
from softtokens.thoughts import Gaussian, normal
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights

PROMPT = 8
OF_ONE_TENSOR = 1 / 8
SOFT = Gaussian(0.5, SIGMA)


def rows(sizes: Sizes) -> Iterator[Row]:
    rollouts, thoughts, vocab, dim = sizes.replay
    fresh = sizes.rounds > 1
    with busyness() as busy:
        ours = _peak("ours", rollouts, thoughts, vocab, dim, fresh=fresh)
    one_tensor = 4.0 * rollouts * thoughts * vocab
    yield Row(
        idea="memory",
        clock="peak memory",
        what=f"soft update, {rollouts} x {thoughts:,} thoughts, V = {vocab:,}, d = {dim}, whole process",
        ours=_shown(ours),
        compared_with="one float32 tensor of logits, computed",
        theirs=f"{one_tensor / MEGABYTE:,.0f} MB",
        ratio=ours["peak"] / one_tensor,
        samples={"ours": [ours["peak"], ours["before"], ours["seconds"]], "one tensor": [one_tensor]},
        busy=busy[0],
        at_most=OF_ONE_TENSOR,
    )
    with busyness() as busy:
        few = {
            way: _peak(way, sizes.naive_rollouts, thoughts, vocab, dim, fresh=fresh) for way in ("ours", "materialised")
        }
    taken = {way: max(1.0, measured["peak"] - measured["before"]) for way, measured in few.items()}
    yield Row(
        idea="memory",
        clock="peak memory",
        what=f"the same with {sizes.naive_rollouts} rollouts, what the update adds",
        ours=f"+{taken['ours'] / MEGABYTE:,.0f} MB",
        compared_with="logits of all thoughts kept, measured",
        theirs=f"+{taken['materialised'] / MEGABYTE:,.0f} MB",
        ratio=taken["ours"] / taken["materialised"],
        samples={way: [measured["peak"], measured["before"], measured["seconds"]] for way, measured in few.items()},
        busy=busy[0],
    )


def _peak(way: str, *shape: int, fresh: bool) -> dict[str, float]:
    return peak_memory("benchmarks.engine.memory:prepare", [way, *shape], fresh=fresh)


def _shown(measured: dict[str, float]) -> str:
    added = measured["peak"] - measured["before"]
    return f"{measured['peak'] / MEGABYTE:,.0f} MB (+{added / MEGABYTE:,.0f}), {measured['seconds']:.0f} s"


def prepare(way: str, rollouts: int, thoughts: int, vocab: int, dim: int) -> Callable[[], object]:
    """The gradient of one batch of soft rollouts on a model of two layers. What was thought is made up: memory does
    not depend on it."""
    torch.set_flush_denormal(True)  # also in a process of its own
    sizes = Sizes(dim=dim, layers=2, heads=dim // 32 if dim >= 64 else 2, kv_heads=dim // 64 if dim >= 64 else 1)
    policy = policy_of(model_of(sizes, vocab))
    rollout = made_up(rollouts, thoughts, vocab, dim)
    advantages = torch.randn(rollouts, generator=torch.Generator().manual_seed(0))
    if way == "ours":
        weights, batch = Weights(policy), Batch(SOFT, rollout, advantages, rollout.rows)
        return lambda: accumulate_gradient(weights, batch, TermWeights())
    return lambda: _materialised(policy, rollout, advantages)


def made_up(rollouts: int, thoughts: int, vocab: int, dim: int) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    seq = PROMPT + thoughts + ANSWER_TOKENS
    kinds = [Kind.PROMPT] * PROMPT + [Kind.THOUGHT] * thoughts + [Kind.ANSWER] * ANSWER_TOKENS
    ids = torch.randint(vocab, (rollouts, seq), generator=generator)
    ids[:, :PROMPT] = ids[:1, :PROMPT]
    return Rollout(
        ids=ids,
        kind=torch.tensor(kinds, dtype=torch.int8).expand(rollouts, seq).contiguous(),
        stored={"inputs": torch.randn(rollouts, thoughts, dim, generator=generator).mul_(0.1)},
        log_prob=torch.zeros(rollouts, seq),
        keys=Keys(0, torch.zeros(rollouts, dtype=torch.int64), torch.arange(rollouts)),
        prompt_lengths=torch.full((rollouts,), PROMPT),
        stop_reasons=[LIMIT] * rollouts,
        thought_texts=[""] * rollouts,
        answer_texts=[""] * rollouts,
    )


def _materialised(policy: HFPolicy, rollout: Rollout, advantages: torch.Tensor) -> None:
    """The thought term as one would write it down first: all logits at once, autograd does the rest."""
    thoughts, table = rollout.stored["inputs"].shape[1], policy.vocabulary.table
    inputs = torch.cat((policy.vocabulary.embed(rollout.ids[:, :PROMPT]), rollout.stored["inputs"]), 1)
    hidden = policy.hidden_states(inputs)[:, PROMPT - 1 : PROMPT - 1 + thoughts]
    logits = hidden.flatten(0, 1) @ table.T
    mean = (logits / SOFT.tau).softmax(-1) @ table
    step = torch.arange(thoughts).repeat(rollout.rows)
    row = torch.arange(rollout.rows).repeat_interleave(thoughts)
    noise = rollout.keys[row].at(step, Stream.THOUGHT).normal(mean.shape[-1])
    log_prob = normal.replayed_score(noise, mean, SOFT.sigma).view(rollout.rows, thoughts)
    (-(advantages * log_prob.sum(-1)).sum() / rollout.rows).backward()
