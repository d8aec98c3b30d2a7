"""The whole algorithm in one file: sample thoughts and answers, reward them, compare within the group, take a step.

    python examples/loop.py                  # soft thoughts on the embedded model; a minute for 10 updates
    python examples/loop.py --mode hard

Plain transformers and torch take the place of the library's decoder, replay and trainer; the task, the grader and the
keyed random numbers come from the library. It computes the same gradient as `softtokens train` (a test compares them),
without batches over several problems, memory limits, checkpoints, or the checks of a real run.

The method is "Soft Tokens, Hard Truths", arXiv 2509.19170. In shapes, `rows` is the rollouts of one problem.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from softtokens import leave_one_out, load_policy, load_problems
from softtokens.endings import PAPER
from softtokens.ops.random import Keys, Stream
from softtokens.rewards.exact import ExactGrader
from softtokens.types import Problem

ENDING = PAPER.ways[0]  # "The final answer is: "
REWARD = {"right": 100.0, "wrong": 10.0, "none": 0.0}
TEMPERATURE = {"hard": 1.0, "soft": 0.5, "fuzzy": 1e-4}
PROMPT, THOUGHT, FORCED, ANSWER, DONE = range(5)


@dataclasses.dataclass(frozen=True)
class Settings:
    mode: str = "soft"
    tau: float = TEMPERATURE["soft"]
    gamma: float = 0.33  # noise, in units of the root mean square of the embedding table
    thought_weight: float = 1.0  # 0: the answer-only control
    answer_weight: float = 1.0
    problems: int = 8  # per update
    group: int = 16  # rollouts per problem
    max_thoughts: int = 64
    max_answer: int = 8
    learning_rate: float = 1e-4
    clip_norm: float = 1.0
    seed: int = 0


@dataclasses.dataclass
class Rollouts:
    """All rollouts of one problem. They share the prompt, so position i is position i in every row; a row that ended
    early goes on emitting positions marked DONE, which are ignored."""

    ids: list[Tensor]  # per position, [rows]: the token, or the most likely one of a mixture
    kinds: list[Tensor]  # per position, [rows]: PROMPT, THOUGHT, FORCED, ANSWER or DONE
    fed: list[Tensor]  # per position, [rows, dim]: what the model read
    noise: list[Tensor]  # per position, [rows, dim]: of a mixture, 0 elsewhere


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompt: str, keys: Keys, sigma: float, s: Settings) -> Rollouts:
    """Think, force the box, answer. keys: determine each row's random numbers. sigma: the noise per coordinate."""
    table, rows = model.get_input_embeddings().weight, len(keys.rollout)
    ids = torch.tensor(tokenizer(prompt)["input_ids"]).expand(rows, -1)
    r = Rollouts(list(ids.T), [torch.full((rows,), PROMPT)] * ids.shape[1], list(table[ids].transpose(0, 1)), [])
    r.noise = [torch.zeros(rows, table.shape[1])] * ids.shape[1]
    kind, count = torch.full((rows,), THOUGHT), torch.zeros(rows, dtype=torch.long)
    text = [""] * rows  # of the thoughts so far
    queue: list[list[int]] = [[] for _ in range(rows)]  # forced tokens to come
    cache, inputs = DynamicCache(config=model.config), table[ids]
    while (kind != DONE).any():
        logits = model(inputs_embeds=inputs, past_key_values=cache, logits_to_keep=1).logits[:, 0].float()
        noise = torch.zeros_like(inputs[:, 0])
        token = draw(logits, keys.at(count, Stream.ANSWER).uniform())  # the answer's temperature is 1
        if s.mode == "hard":
            thought = draw(logits / s.tau, keys.at(count, Stream.THOUGHT).uniform())
            fed_thought = table[thought]
        else:
            thought = logits.argmax(-1)
            noise = keys.at(count, Stream.THOUGHT).normal(table.shape[1])
            fed_thought = (logits / s.tau).softmax(-1) @ table + sigma * noise  # the method's one new line
        forced = torch.tensor([q[0] if q else 0 for q in queue])
        token = torch.where(kind == THOUGHT, thought, torch.where(kind == FORCED, forced, token))
        thinks = (kind == THOUGHT)[:, None]
        fed = torch.where(thinks, fed_thought, table[token])
        for name, value in (("ids", token), ("kinds", kind.clone()), ("fed", fed), ("noise", noise * thinks)):
            getattr(r, name).append(value)
        inputs = fed[:, None]
        count += 1
        for row in range(rows):
            now, ended = int(kind[row]), False
            if now == THOUGHT:
                text[row] += tokenizer.decode(token[row])
                says_phrase = text[row].rstrip().endswith(ENDING.core)
                ended = says_phrase or token[row] == tokenizer.eos_token_id or count[row] == s.max_thoughts
                if ended:
                    words = ENDING.forced if says_phrase else PAPER.otherwise
                    queue[row] = tokenizer(f" {words}")["input_ids"]
            elif now == FORCED:
                queue[row].pop(0)
                ended = not queue[row]
            elif now == ANSWER:
                ended = bool(token[row] == tokenizer.eos_token_id) or count[row] == s.max_answer
            if ended:
                kind[row], count[row] = now + 1, 0
    return r


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Tokens by inverting the cumulative distribution, int64 [rows]. uniform: float64 [rows]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def answers(r: Rollouts, tokenizer: Any) -> list[str]:
    """What the grader reads: the forced text and the answer of each row."""
    ids, kinds = torch.stack(r.ids, 1), torch.stack(r.kinds, 1)
    read = (kinds == FORCED) | (kinds == ANSWER)
    return [tokenizer.decode(row[chosen], skip_special_tokens=True) for row, chosen in zip(ids, read, strict=True)]


def loss(model: Any, r: Rollouts, advantages: Tensor, sigma: float, total_rows: int, s: Settings) -> Tensor:
    """-1/(B G) * sum over rollouts of A * (w_t * sum of the thoughts' log pi + w_a * sum of the answer's log pi)."""
    table = model.get_input_embeddings().weight
    ids, kinds, noise = (torch.stack(x, 1) for x in (r.ids, r.kinds, r.noise))
    is_mixture = (kinds == THOUGHT) & (s.mode != "hard")
    # Mixtures are actions, so data; tokens are embedded again, as in any language model.
    fed = torch.where(is_mixture[..., None], torch.stack(r.fed, 1), table[ids])
    logits = model(inputs_embeds=fed[:, :-1]).logits.float()
    ids, kinds, noise = ids[:, 1:], kinds[:, 1:], noise[:, 1:]

    def log_prob(temperature: float) -> Tensor:
        return (logits / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]

    if s.mode == "hard":
        thought = log_prob(s.tau)
    else:
        # log N(x; mean, sigma^2 I) at x = mean + sigma * noise has the gradient noise . grad mean / sigma
        mean = (logits / s.tau).softmax(-1) @ table
        thought = (noise * mean).sum(-1) / sigma
    terms = s.thought_weight * thought * (kinds == THOUGHT) + s.answer_weight * log_prob(1.0) * (kinds == ANSWER)
    return -(advantages * terms.sum(-1)).sum() / total_rows


def gradient(model: Any, tokenizer: Any, problems: list[Problem], sigma: float, s: Settings) -> Tensor:
    """Add one batch's gradient to `.grad` of the parameters; returns the rewards [problems, group]."""
    grader, rewards = ExactGrader(), []
    for problem in problems:
        keys = Keys(s.seed, torch.full((s.group,), problem.id), torch.arange(s.group))
        rollouts = sample(model, tokenizer, problem.prompt, keys, sigma, s)
        verdicts = grader.grade(answers(rollouts, tokenizer), [str(problem.answer)] * s.group)
        rewards.append(torch.tensor([REWARD[verdict.value] for verdict in verdicts]))
        advantages = leave_one_out(rewards[-1][None])[0]
        if advantages.any():
            loss(model, rollouts, advantages, sigma, len(problems) * s.group, s).backward()
    return torch.stack(rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=tuple(TEMPERATURE), default="soft")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    s = Settings(mode=arguments.mode, tau=TEMPERATURE[arguments.mode])

    policy = load_policy("tiny")
    model, tokenizer = policy.model, policy.tokenizer
    sigma = s.gamma * model.get_input_embeddings().weight.detach().square().mean().sqrt().item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.learning_rate, weight_decay=0.0)
    problems = load_problems("arithmetic", split="train", limit=s.problems * arguments.steps)
    for step in range(arguments.steps):
        rewards = gradient(model, tokenizer, problems[step * s.problems : (step + 1) * s.problems], sigma, s)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1:3d}  mean reward {rewards.mean():5.1f}  gradient norm {norm:.3g}", flush=True)


if __name__ == "__main__":
    main()
