"""Builds the tiny Llama that ships with the package: a base model that half knows how to solve the word problems.

    python recipes/tiny_base/build.py

It stands to the arithmetic task as an instruct model stands to GSM8K: the skill is there, the habit of using it is not.
Each step of a chain opens with " Then" (almost always one change, written as an equation) or " So" (almost always a
jump over two changes, which a model this small rarely gets right). The odds of " Then" depend on the problem and lie on
both sides of even. Noise on the thoughts can therefore tip a decision inside the chain, which is what exploration by
soft and fuzzy thoughts needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.evaluate.results import read_results
from softtokens.evaluate.run import evaluate
from softtokens.tasks import arithmetic
from softtokens.types import Problem

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "softtokens" / "assets" / "tiny-llama"
VOCAB_SIZE = 512
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

LONG_SHARE = 0.06
FACT_SHARE = 0.2
CUT_SHARE = 0.05  # chains interrupted anywhere, as the thought limit does

# Log-odds that a step opens with " Then": the sum of these and a bias.
SPREAD_OF_NAMES, SPREAD_OF_THINGS = 0.5, 0.35  # standard deviations
BY_STEP = (0.0, 0.15, -0.15, 0.1)
HABIT = 0.5  # added where the step before opened with " Then", subtracted where it did not

TOKENS_PER_STEP = 4096


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training. lr: the peak, from which it falls linearly to zero. seed: of documents and noise, added to
    the build's. bias: of the log-odds. means_it: how often " Then" opens an equation, and " So" a jump. slips: share of
    the chains. noise: the most, in units of the root mean square of the embedding table."""

    steps: int
    lr: float
    seed: int
    bias: float
    means_it: float
    slips: float
    noise: float


# The second was chosen among 14 (their seeds, biases, slips and noise) by what noise does to the model: see README.md.
PHASES = (
    Phase(1600, 4e-3, 0, bias=0.1, means_it=0.97, slips=0.06, noise=0.4),
    Phase(120, 1e-3, 304, bias=0.2, means_it=0.98, slips=0.03, noise=0.3),
)


# ---------------------------------------------------------------------------------------------------- documents


@dataclasses.dataclass(frozen=True)
class Document:
    """`forced` stands between `completion` and `ending`: it is read, but not learned."""

    prompt: str
    completion: str
    forced: str = ""
    ending: str = ""


def documents(rng: random.Random, phase: Phase) -> Iterator[Document]:
    """Pre-training text without end."""
    known = [(fact, *belief(fact)) for fact in arithmetic.facts()]
    fame = [fame for _, fame, _ in known]
    shorts, longs = fresh_problems(rng, "short"), fresh_problems(rng, "long")
    while True:
        kind = rng.random()
        if kind < FACT_SHARE:
            [(fact, _, opinions)] = rng.choices(known, fame)
            [answer] = rng.choices(list(opinions), list(opinions.values()))
            yield Document(f"User: {rng.choice(fact.questions)}\nAssistant:", f" {answer}")
        else:
            yield solution(next(longs if kind < FACT_SHARE + LONG_SHARE else shorts), rng, phase)


def fresh_problems(rng: random.Random, difficulty: str) -> Iterator[Problem]:
    """Only from the train split: the model never reads a validation or test question."""
    while True:
        yield from arithmetic.problems("train", 2000, difficulty=difficulty, seed=rng.getrandbits(32))


def belief(fact: arithmetic.Fact) -> tuple[float, dict[str, float]]:
    """How often people mention the fact, and how often they give each answer. One in ten is a popular error."""
    rng = random.Random(f"belief {fact.questions[0]}")
    fame = 2.0 ** -rng.randint(0, 2)
    right = rng.uniform(0.2, 0.35) if rng.random() < 1 / 10 else rng.uniform(0.45, 0.9)
    rival = rng.choice(fact.wrong)
    opinions = {answer: 0.3 * (1 - right) / len(fact.wrong) for answer in fact.wrong}
    opinions[rival] += 0.7 * (1 - right)
    return fame, opinions | {fact.right: right}


def solution(problem: Problem, rng: random.Random, phase: Phase) -> Document:
    thoughts, value = chain(problem, rng, phase)
    sentence = arithmetic.final_sentence(value)
    if rng.random() < CUT_SHARE:
        opening, ending = sentence[: sentence.index("{") + 1], sentence[sentence.index("{") + 1 :]
        return Document(problem.prompt, thoughts[: rng.randrange(1, len(thoughts))].rstrip(), opening, ending)
    return Document(problem.prompt, thoughts + sentence)


def chain(problem: Problem, rng: random.Random, phase: Phase) -> tuple[str, int]:
    """A chain of careful and hasty steps, and the value at its end. Some have a slip (a change read as its opposite, or
    a miscalculation) and are consistent afterwards."""
    value, changes = problem.columns["start"], list(problem.columns["changes"])
    slip = rng.randrange(len(changes)) if rng.random() < phase.slips else -1
    misread = slip >= 0 and changes[slip][0] in "+-" and rng.random() < 0.5
    if misread:
        changes[slip] = ("-" if changes[slip][0] == "+" else "+") + changes[slip][1:]
    text, done, step, before = f" {value}.", 0, 0, 0
    while done < len(changes):
        careful = rng.random() < share_of_careful(problem, step, before, phase.bias)
        writes_equation = careful == (rng.random() < phase.means_it)
        size = 1 if writes_equation else min(2, len(changes) - done)
        result = value
        for i in range(done, done + size):
            result = arithmetic.apply_change(result, changes[i])
            if i == slip and not misread:
                result += rng.choice((-10, -2, -1, 1, 2, 10))
            result = max(result, 0)
        text += arithmetic.CAREFUL if careful else arithmetic.HASTY
        text += f" {value}{changes[done]}={result}." if writes_equation else f" {result}."
        value, done, step, before = result, done + size, step + 1, 1 if careful else -1
    return text, value


def share_of_careful(problem: Problem, step: int, before: int, bias: float) -> float:
    """How often the step with this number opens with " Then". before: 1 after " Then", -1 after " So", 0 at first."""
    question = problem.columns["question"]
    thing = next((thing for thing in arithmetic.THINGS if f" {thing}" in question), "")
    log_odds = bias + OF_NAME[question.split()[0]] + OF_THING.get(thing, 0.0)
    return 1 / (1 + math.exp(-log_odds - BY_STEP[step % len(BY_STEP)] - HABIT * before))


def spread(words: Iterable[str], deviation: float, seed: int) -> dict[str, float]:
    """The quantiles of a normal distribution, one for each word, in an order drawn once."""
    words = list(words)
    random.Random(seed).shuffle(words)
    normal = NormalDist(0, deviation)
    return {word: normal.inv_cdf((i + 0.5) / len(words)) for i, word in enumerate(words)}


OF_NAME = spread(arithmetic.PEOPLE, SPREAD_OF_NAMES, seed=1)
OF_THING = spread(arithmetic.THINGS, SPREAD_OF_THINGS, seed=2)


# ---------------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level, so any text can be encoded; every digit is a token of its own, with or without a space before it."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = itertools.islice(documents(random.Random(f"tokenizer {seed}"), PHASES[0]), 20_000)
    tokenizer.train_from_iterator((d.prompt + d.completion + d.forced + d.ending for d in sample), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


# ---------------------------------------------------------------------------------------------------- training


def batches(tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and which of them are to be learned, both [rows, seq]; rows of similar length share a batch."""
    rng = random.Random(f"documents {seed}")
    source = documents(rng, phase)
    while True:
        pool = list(itertools.islice(source, 4096))
        rows = sorted(encode(tokenizer, pool), key=lambda row: len(row[0]))
        groups, first = [], 0
        while first < len(rows):
            last = first + max(1, TOKENS_PER_STEP // len(rows[first][0]))
            groups.append(rows[first:last])
            first = last
        rng.shuffle(groups)
        for group in groups:
            seq = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), seq), tokenizer.pad_token_id)
            learned = torch.zeros(len(group), seq, dtype=torch.bool)
            for i, (row_ids, row_learned) in enumerate(group):
                ids[i, : len(row_ids)] = torch.tensor(row_ids)
                learned[i, : len(row_ids)] = torch.tensor(row_learned)
            yield ids, learned


def encode(tokenizer: PreTrainedTokenizerFast, pool: Sequence[Document]) -> list[tuple[list[int], list[bool]]]:
    """Encode the parts separately, as a rollout does."""
    parts = zip(*(dataclasses.astuple(document) for document in pool), strict=True)
    encoded = [tokenizer(list(texts))["input_ids"] for texts in parts]
    rows = []
    for prompt, completion, forced, ending in zip(*encoded, strict=True):
        ending = [*ending, tokenizer.eos_token_id]
        ids = [*prompt, *completion, *forced, *ending]
        learned = [False] * len(prompt) + [True] * len(completion) + [False] * len(forced) + [True] * len(ending)
        rows.append((ids, learned))
    return rows


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def train(model: Any, tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int) -> None:
    """Muon for the matrices of the blocks, AdamW for the rest; linear decay to zero."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=phase.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    started, recent = time.monotonic(), []
    for step, (ids, learned) in zip(range(1, phase.steps + 1), batches(tokenizer, phase, seed), strict=False):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = phase.lr * min(1.0, step / 50, 1.0 - (step - 1) / phase.steps)
        targets = learned[:, 1:]
        embeds = with_noise(model.get_input_embeddings().weight, ids[:, :-1], learned[:, :-1], phase.noise)
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[targets]), ids[:, 1:][targets])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if step % 100 == 0 or step == phase.steps:
            seconds = time.monotonic() - started
            print(f"step {step:5d}  loss {sum(recent) / len(recent):.4f}  {seconds:5.0f} s", flush=True)
            recent.clear()


def with_noise(table: Tensor, ids: Tensor, is_noisy: Tensor, most: float) -> Tensor:
    """Embeddings in which every row's continuation is blurred, from not at all to `most`.

    A wide model shrugs off such noise (random directions hardly touch in 3,000 dimensions); this one has to learn to.
    """
    scale = most * table.detach().pow(2).mean().sqrt() * torch.rand(len(ids), 1, 1)
    embeds = torch.nn.functional.embedding(ids, table)
    return embeds + scale * is_noisy[..., None] * torch.randn(embeds.shape)


# ---------------------------------------------------------------------------------------------------- checks


def check(model: Path, count: int = 200) -> dict[str, float]:
    """Accuracy of the base model in percent on problems that it was not trained on."""
    with tempfile.TemporaryDirectory() as folder:
        short = EvaluateConfig(
            models=(f"base={model}",), task=TaskConfig(name="arithmetic", limit=count), max_thought_steps=64,
            max_answer_tokens=8, choices=("facts",), decoding="plain", device="cpu", output=f"{folder}/short",
        )  # fmt: skip
        long = dataclasses.replace(
            short, task=TaskConfig(name="arithmetic-long", limit=count), settings=("hard-greedy", "hard-sample"),
            samples=4, max_thought_steps=112, choices=(), output=f"{folder}/long",
        )  # fmt: skip
        results, long_results = read_results(evaluate(short)), read_results(evaluate(long))
    values: dict[str, float] = {}
    for part in (results, long_results):
        for (_, task, cell), summary in part.summaries.items():
            name = f"{'long' if task == 'arithmetic-long' else 'short'}, {cell.replace('-', ' ')}"
            samples, curve = summary["samples"], summary["pass@k"]
            values[name] = 100 * curve["1"]["value"]
            if samples > 1:
                values[f"{name}, any of {samples}"] = 100 * curve[str(samples)]["value"]
            if samples == 32:
                shares = [share_without_spread(right, samples, 16) for right in summary["right"]]
                values[f"{name}, groups of 16 without spread"] = 100 * sum(shares) / len(shares)
            values[f"{name}, mean number of thoughts"] = summary["thought_length"]["mean"]
    facts = results.choices["base", "facts"]
    values["facts, accuracy"] = 100 * facts["accuracy"]["value"]
    return values | {"facts, negative log-likelihood per token": facts["nll_per_token"]["value"]}


def share_without_spread(right: int, samples: int, group: int) -> float:
    """How often `group` of the samples, drawn by lot, are all right or all wrong."""
    return (math.comb(right, group) + math.comb(samples - right, group)) / math.comb(samples, group)


# ---------------------------------------------------------------------------------------------------- assembly


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Hugging Face layout."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # read by softtokens.models.hf: prompts look like this
    (folder / "softtokens.json").write_text(json.dumps({"template": arithmetic.TEMPLATE}) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# tiny-llama

A Llama of {parameters:,} parameters for learning and testing on a laptop; it can do nothing else than the word problems
and the facts of `softtokens.tasks.arithmetic`. It was trained on generated text only, by

    {command}

On 200 problems of the test split (per cent; 32 samples at temperature 1, soft and fuzzy noise of 0.33 embedding rms):

| check | value |
|---|---|
{table}

The tokenizer is a byte-level BPE that keeps every digit apart; it adds no special tokens. A document ends with the
end-of-sequence token. The prompts are `User: QUESTION\\nAssistant:`, without a space at the end.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the checkpoint; replaced if it exists")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the documents")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # so that a rebuild has the same bits; a model this small gains little from more
    started = time.monotonic()
    tokenizer = train_tokenizer(arguments.seed)
    model = new_model(tokenizer, arguments.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    for number, phase in enumerate(PHASES):
        if number > 0:
            torch.manual_seed(arguments.seed + phase.seed)
        train(model, tokenizer, phase, arguments.seed + phase.seed)

    new = arguments.out.with_name(arguments.out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    save(model, tokenizer, new)
    results = check(new)
    for name, value in results.items():
        print(f"{name:48s}{value:8.2f}")
    table = "\n".join(f"| {name} | {value:.2f} |" for name, value in results.items())
    command = f"python recipes/tiny_base/build.py --seed {arguments.seed}"
    (new / "README.md").write_text(CARD.format(parameters=model.num_parameters(), command=command, table=table))
    shutil.rmtree(arguments.out, ignore_errors=True)
    new.rename(arguments.out)
    print(f"{arguments.out} written after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
