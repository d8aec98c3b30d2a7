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
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from softtokens.tasks import arithmetic
from softtokens.types import ChoiceItem, Problem

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "softtokens" / "assets" / "tiny-llama"
VOCAB_SIZE = 512
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

LONG_SHARE = 0.06
FACT_SHARE = 0.2
CUT_SHARE = 0.05  # chains interrupted anywhere, as the thought limit does
SLIP_SHARE = 0.03  # of the chains
MEANS_IT = 0.98  # how often " Then" opens an equation, and " So" a jump

# Log-odds that a step opens with " Then": the sum of these.
BIAS = 0.15
SPREAD_OF_NAMES, SPREAD_OF_THINGS = 0.45, 0.3  # standard deviations
BY_STEP = (0.0, 0.15, -0.15, 0.1)
HABIT = 0.5  # added where the step before opened with " Then", subtracted where it did not

LARGEST_NOISE = 0.4  # of the root mean square of the embedding table
TOKENS_PER_STEP = 4096
ROWS_AT_ONCE = 256  # while checking


# ---------------------------------------------------------------------------------------------------- documents


@dataclasses.dataclass(frozen=True)
class Document:
    """`forced` stands between `completion` and `ending`: it is read, but not learned."""

    prompt: str
    completion: str
    forced: str = ""
    ending: str = ""


def documents(rng: random.Random) -> Iterator[Document]:
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
            yield solution(next(longs if kind < FACT_SHARE + LONG_SHARE else shorts), rng)


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


def solution(problem: Problem, rng: random.Random) -> Document:
    thoughts, value = chain(problem, rng)
    sentence = arithmetic.final_sentence(value)
    if rng.random() < CUT_SHARE:
        opening, ending = sentence[: sentence.index("{") + 1], sentence[sentence.index("{") + 1 :]
        return Document(problem.prompt, thoughts[: rng.randrange(1, len(thoughts))].rstrip(), opening, ending)
    return Document(problem.prompt, thoughts + sentence)


def chain(problem: Problem, rng: random.Random) -> tuple[str, int]:
    """A chain of careful and hasty steps, and the value at its end. Some have a slip (a change read as its opposite, or
    a miscalculation) and are consistent afterwards."""
    value, changes = problem.columns["start"], list(problem.columns["changes"])
    slip = rng.randrange(len(changes)) if rng.random() < SLIP_SHARE else None
    misread = slip is not None and changes[slip][0] in "+-" and rng.random() < 0.5
    if misread:
        changes[slip] = ("-" if changes[slip][0] == "+" else "+") + changes[slip][1:]
    text, done, step, before = f" {value}.", 0, 0, 0
    while done < len(changes):
        careful = rng.random() < share_of_careful(problem, step, before)
        writes_equation = careful == (rng.random() < MEANS_IT)
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


def share_of_careful(problem: Problem, step: int, before: int) -> float:
    """How often the step with this number opens with " Then". before: 1 after " Then", -1 after " So", 0 at first."""
    question = problem.columns["question"]
    thing = next((thing for thing in arithmetic.THINGS if f" {thing}" in question), None)
    log_odds = BIAS + OF_NAME[question.split()[0]] + OF_THING.get(thing, 0.0)
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
    sample = itertools.islice(documents(random.Random(f"tokenizer {seed}")), 20_000)
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


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and which of them are to be learned, both [rows, seq]; rows of similar length share a batch."""
    rng = random.Random(f"documents {seed}")
    source = documents(rng)
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
    """The parts are encoded apart, as a rollout meets them."""
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


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, lr: float, seed: int) -> None:
    """Muon for the matrices of the blocks, AdamW for the rest; linear decay to zero."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    started, recent = time.monotonic(), []
    for step, (ids, learned) in zip(range(1, steps + 1), batches(tokenizer, seed), strict=False):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr * min(1.0, step / 50, 1.0 - (step - 1) / steps)
        targets = learned[:, 1:]
        embeds = with_noise(model.get_input_embeddings().weight, ids[:, :-1], learned[:, :-1])
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[targets]), ids[:, 1:][targets])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"step {step:5d}  loss {sum(recent) / len(recent):.4f}  {seconds:5.0f} s", flush=True)
            recent.clear()


def with_noise(table: Tensor, ids: Tensor, is_noisy: Tensor) -> Tensor:
    """Embeddings in which every row's continuation is blurred, from not at all to LARGEST_NOISE.

    A wide model shrugs off such noise (random directions hardly touch in 3,000 dimensions); this one has to learn to.
    """
    scale = LARGEST_NOISE * table.detach().pow(2).mean().sqrt() * torch.rand(len(ids), 1, 1)
    embeds = torch.nn.functional.embedding(ids, table)
    return embeds + scale * is_noisy[..., None] * torch.randn(embeds.shape)


# ---------------------------------------------------------------------------------------------------- checks


class Sampler:
    """The plainest decoder that can do hard, soft and fuzzy thoughts: left-padded rows and a cache."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]):
        self.model, self.table = model, model.get_input_embeddings().weight
        inputs = tokenizer(list(prompts), padding=True, return_tensors="pt")
        self.cache = DynamicCache(config=model.config)
        self.mask = inputs["attention_mask"][:, :0]
        self.logits = self.read(self.table[inputs["input_ids"]], inputs["attention_mask"])

    def read(self, embeds: Tensor, is_real: Tensor) -> Tensor:
        """Feeds embeddings [rows, seq, dim]; what is not real takes no position and is never looked at."""
        self.mask = torch.cat([self.mask, is_real.long()], 1)
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        out = self.model.model(
            inputs_embeds=embeds, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache
        )
        self.logits = self.model.lm_head(out.last_hidden_state[:, -1])
        return self.logits


@torch.no_grad()
def boxed_answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    temperature: float,
    mixed: bool = False,
    noise_scale: float = 0.0,
    limit: int,
    seed: int,
) -> tuple[list[str], float]:
    """The text inside each box, and the mean number of thoughts before it.

    Thoughts are tokens drawn at `temperature` (0: the most likely one) or, if `mixed`, probability-weighted embeddings
    plus noise. The answer is greedy.
    """
    generator = torch.Generator().manual_seed(seed)
    phrase = torch.tensor(tokenizer(f" {arithmetic.FINAL_SENTENCE}")["input_ids"])
    box = torch.tensor(tokenizer(r" \boxed{")["input_ids"])
    sampler, rows = Sampler(model, tokenizer, prompts), len(prompts)
    text = torch.full((rows, len(phrase)), -1)
    thinking, said_phrase = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    thoughts = 0
    for _ in range(limit):
        token = sampler.logits.argmax(-1)
        if temperature > 0 and not mixed:
            weights = (sampler.logits / temperature).softmax(-1)
            token = torch.multinomial(weights, 1, generator=generator).squeeze(-1)
        embeds = sampler.table[token]
        if mixed:
            embeds = (sampler.logits / temperature).softmax(-1) @ sampler.table
            embeds = embeds + noise_scale * torch.randn(embeds.shape, generator=generator)
        thinking = thinking & (token != tokenizer.eos_token_id)
        if not thinking.any():
            break
        thoughts += thinking.sum().item()
        text = torch.cat([text[:, 1:], token[:, None]], 1)
        sampler.read(embeds[:, None], thinking[:, None])
        now = thinking & (text == phrase).all(-1)
        said_phrase, thinking = said_phrase | now, thinking & ~now
    forced = torch.cat([phrase, box]).expand(rows, -1)
    is_new = torch.cat([~said_phrase[:, None].expand(-1, len(phrase)), torch.ones(rows, len(box), dtype=torch.bool)], 1)
    sampler.read(sampler.table[forced], is_new)
    answer = []
    for _ in range(4):
        answer.append(sampler.logits.argmax(-1))
        sampler.read(sampler.table[answer[-1]][:, None], torch.ones(rows, 1))
    texts = tokenizer.batch_decode(torch.stack(answer, 1))
    return [text.split("}")[0] for text in texts], thoughts / rows


def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200) -> dict[str, float]:
    """What the base model can do, in per cent, on problems it has never read."""
    model.eval()
    noise = 0.33 * model.get_input_embeddings().weight.pow(2).mean().sqrt().item()
    soft, fuzzy = {"temperature": 0.5, "mixed": True}, {"temperature": 1e-4, "mixed": True}
    short = arithmetic.problems("test", count)
    long = arithmetic.problems("test", count, difficulty="long")
    results: dict[str, float] = {}
    for name, problems, group, setting in (
        ("short, hard greedy", short, 1, {"temperature": 0.0}),
        ("short, hard sample", short, 32, {"temperature": 1.0}),
        ("short, soft greedy", short, 1, soft),
        ("short, soft sample", short, 32, soft | {"noise_scale": noise}),
        ("short, fuzzy sample", short, 32, fuzzy | {"noise_scale": noise}),
        ("long, hard greedy", long, 1, {"temperature": 0.0}),
        ("long, hard sample", long, 4, {"temperature": 1.0}),
    ):
        limit = 64 if problems is short else 112
        right, lengths = score(model, tokenizer, problems, group=group, limit=limit, **setting)
        results[name] = 100 * right.float().mean().item()
        if group > 1:
            results[f"{name}, any of {group}"] = 100 * right.any(-1).float().mean().item()
        if group == 32:
            shares = right.view(2 * len(problems), 16).float().mean(-1)
            results[f"{name}, groups of 16 without spread"] = 100 * (shares % 1 == 0).float().mean().item()
        results[f"{name}, mean number of thoughts"] = lengths
    accuracy, nll = choice_scores(model, tokenizer, arithmetic.multiple_choice(count))
    return results | {"facts, accuracy": 100 * accuracy, "facts, negative log-likelihood per token": nll}


def score(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    group: int,
    **setting: float,
) -> tuple[Tensor, float]:
    """Which samples are right, [problems, group], and the mean number of thoughts."""
    rows = [problem for problem in problems for _ in range(group)]
    right, thoughts = [], 0.0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        answers, mean = boxed_answers(model, tokenizer, [p.prompt for p in part], seed=first, **setting)
        right += [answer == problem.answer for answer, problem in zip(answers, part, strict=True)]
        thoughts += mean * len(part)
    return torch.tensor(right).view(len(problems), group), thoughts / len(rows)


@torch.no_grad()
def choice_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[ChoiceItem]
) -> tuple[float, float]:
    """Accuracy (highest likelihood of a choice) and mean negative log-likelihood per token of the right choice."""
    right, nll = 0, 0.0
    for item in items:
        prompt = tokenizer(item.prompt)["input_ids"]
        scores, sizes = [], []
        for choice in item.choices:
            ids = tokenizer(choice)["input_ids"]
            log_probs = model(torch.tensor([prompt + ids[:-1]])).logits[0].log_softmax(-1)[-len(ids) :]
            scores.append(log_probs.gather(-1, torch.tensor(ids)[:, None]).sum().item())
            sizes.append(len(ids))
        right += max(range(4), key=scores.__getitem__) == item.answer
        nll -= scores[item.answer] / sizes[item.answer] / len(items)
    return right / len(items), nll


# ---------------------------------------------------------------------------------------------------- assembly


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, results: dict[str, float], command: str, out: Path
) -> None:
    """Hugging Face layout, built aside and moved into place."""
    new = out.with_name(out.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    model.save_pretrained(new)
    tokenizer.save_pretrained(new)
    table = "\n".join(f"| {name} | {value:.2f} |" for name, value in results.items())
    # read by softtokens.models.hf: prompts look like this
    (new / "softtokens.json").write_text(json.dumps({"template": arithmetic.TEMPLATE}) + "\n")
    (new / "README.md").write_text(CARD.format(parameters=model.num_parameters(), command=command, table=table))
    for path in new.iterdir():
        path.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)


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
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps of about 4,000 tokens")
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the documents")
    arguments = parser.parse_args()

    started = time.monotonic()
    tokenizer = train_tokenizer(arguments.seed)
    model = new_model(tokenizer, arguments.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer, steps=arguments.steps, lr=arguments.lr, seed=arguments.seed)
    results = check(model, tokenizer)
    for name, value in results.items():
        print(f"{name:48s}{value:8.2f}")
    command = f"python recipes/tiny_base/build.py --steps {arguments.steps} --lr {arguments.lr} --seed {arguments.seed}"
    save(model, tokenizer, results, command, arguments.out)
    print(f"{arguments.out} written after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
