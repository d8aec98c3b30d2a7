"""Whole RL steps (rollout, grading, replay, update): hard compared with TRL's `RLOOTrainer`, soft and
fuzzy compared with hard."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmarks.engine.measure import CLOCKS, Row, compared, take_turns
from benchmarks.engine.subject import THOUGHTS, Sizes, decoder_of, limits_of, model_of, prompts_of, tokenizer
from transformers import LlamaForCausalLM

from softtokens.config.train import RewardConfig, TrainConfig
from softtokens.rewards.graders import grader
from softtokens.rollout.decoder import Decoder
from softtokens.thoughts import Thought
from softtokens.train.batch_sizes import WANTED_POSITIONS, BatchSizes
from softtokens.train.scoring import by_function
from softtokens.train.step import train_step
from softtokens.train.trainee import Trainee
from softtokens.train.weights import Weights
from softtokens.types import Problem

AGAINST_TRL = 2.0
OVER_HARD = {512: 1.10, 32_000: 1.25}
LEARNING_RATE = 1e-6


def rows(sizes: Sizes) -> Iterator[Row]:
    for vocabulary in sizes.vocabularies:
        torch.compiler.reset()  # each model and number of threads is compiled separately, and at most eight are kept
        decoder = decoder_of(model_of(sizes, vocabulary), compiles=sizes.compiles)
        competitors: dict[str, Callable[[], object]] = {
            mode: stepper(decoder, thought, sizes) for mode, thought in THOUGHTS.items()
        }
        competitors["TRL"] = RLOOSteps(sizes, vocabulary)
        rounds = sizes.rounds if vocabulary < 10_000 else sizes.slow_rounds
        for clock in CLOCKS:
            seconds, busy = take_turns(competitors, clock, rounds)
            names: dict[str, Any] = {"idea": "step", "clock": clock, "busy": busy}
            yield compared(seconds, "hard", "TRL", at_least=AGAINST_TRL, what=f"hard, V = {vocabulary:,}", **names)
            for mode in ("soft", "fuzzy"):
                most = OVER_HARD[vocabulary]
                yield compared(seconds, mode, "hard", at_most=most, what=f"{mode}, V = {vocabulary:,}", **names)


def stepper(decoder: Decoder, thought: Thought, sizes: Sizes) -> Callable[[], object]:
    """Ours; each call is one update. The terms' norms, which cost a second backward pass, are not measured."""
    policy = decoder.policy
    limits = limits_of(policy, sizes.tokens)
    config = TrainConfig(
        problems_per_step=sizes.problems,
        group_size=sizes.group,
        max_thought_steps=limits.max_thought_steps,
        max_answer_tokens=limits.max_answer_tokens,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        term_norms_every=0,
        steps=1_000_000,
    )
    texts = prompts_as_texts(policy.tokenizer, sizes)
    problems = [Problem(i, text, "1") for i, text in enumerate(texts)]
    weights = Weights(policy)
    trainee = Trainee(
        config,
        weights,
        torch.optim.AdamW(weights.parameters.values(), lr=LEARNING_RATE),
        thought,
        problems,
        by_function(reward),
        limits,
        batch_sizes=BatchSizes(sizes.rows, 0, WANTED_POSITIONS["cpu"], recomputes=False),
        decoder=decoder,
    )
    done = iter(range(config.steps))
    return lambda: train_step(trainee, next(done))


def reward(completions: list[str], answer: list[str], **columns: object) -> list[float]:
    """The grader's reward, and a little for length: random models answer nothing right, and equal rewards teach
    nothing."""
    del columns
    scale, verdicts = RewardConfig(), grader("exact").grade(completions, answer)
    return [scale.of(v) + 0.1 * len(text) for v, text in zip(verdicts, completions, strict=True)]


def prompts_as_texts(tokenizer: Any, sizes: Sizes) -> list[str]:
    """Prompts of about the configured length, as text, because both trainers take text."""
    return [tokenizer.decode(prompt) for prompt in prompts_of(sizes)]


class RLOOSteps:
    """TRL's trainer; each call is one update. Its loop pauses between our calls.

    Rows of a batch go through the update in parts, which at V = 32,000 is nearly twice as fast as all at once.
    """

    def __init__(self, sizes: Sizes, vocabulary: int, parts: int = 8):
        self.folder = tempfile.TemporaryDirectory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = self._trainer(sizes, model_of(sizes, vocabulary), parts)
            self.trainer.create_optimizer_and_scheduler(num_training_steps=1_000_000)
            loader = self.trainer.get_train_dataloader()
        self.batches = (batch for _ in itertools.count() for batch in loader)
        self.parts = parts

    def __call__(self) -> None:
        """What `Trainer.train` does for one update."""
        trainer = self.trainer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(self.parts):
                trainer.model.train()
                trainer.current_gradient_accumulation_steps = self.parts
                trainer.training_step(trainer.model, next(self.batches), num_items_in_batch=None)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.model.zero_grad()
            trainer.state.global_step += 1

    def _trainer(self, sizes: Sizes, model: LlamaForCausalLM, parts: int) -> Any:
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        reader = tokenizer()
        rewards: Any = reward  # TRL asks for lists that may hold None
        config = RLOOConfig(
            output_dir=self.folder.name,
            beta=0.0,
            num_generations=sizes.group,
            num_iterations=1,
            per_device_train_batch_size=sizes.rows // parts,
            gradient_accumulation_steps=parts,
            steps_per_generation=parts,
            max_completion_length=sizes.tokens,
            generation_kwargs={"min_new_tokens": sizes.tokens},  # random models end a text now and then
            normalize_advantages=False,
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            max_steps=1_000_000,
        )
        data = Dataset.from_list([{"prompt": text, "answer": "1"} for text in prompts_as_texts(reader, sizes)])
        return RLOOTrainer(model=model, reward_funcs=rewards, args=config, train_dataset=data, processing_class=reader)
