"""Sampling: ours compared with transformers' `generate` and with a model written by hand for the purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmarks.engine.handwritten import Handwritten
from benchmarks.engine.measure import CLOCKS, Row, compared, take_turns
from benchmarks.engine.subject import (
    SIGMA,
    THOUGHTS,
    Sizes,
    decoder_of,
    emitted,
    limits_of,
    model_of,
    prompts_of,
    repeated_prompts,
    roll,
)

from softtokens.endings import PAPER
from softtokens.rollout.limits import forced_texts

AGAINST_GENERATE = {512: 2.3, 32_000: 4.0}
AGAINST_HANDWRITTEN = 0.9


def rows(sizes: Sizes) -> Iterator[Row]:
    for vocabulary in sizes.vocabularies:
        torch.compiler.reset()
        competitors, work = _competitors(sizes, vocabulary)
        for clock in CLOCKS:
            seconds, busy = take_turns(competitors, clock, sizes.rounds)
            for mode in ("hard", "soft"):
                for other, target in (
                    ("generate", AGAINST_GENERATE.get(vocabulary)),
                    (f"handwritten {mode}", AGAINST_HANDWRITTEN),
                ):
                    yield compared(
                        seconds,
                        mode,
                        other,
                        work=work,
                        unit="tokens/s",
                        at_least=target,
                        idea="rollout",
                        what=f"{mode}, V = {vocabulary:,}",
                        clock=clock,
                        busy=busy,
                    )


def _competitors(sizes: Sizes, vocabulary: int) -> tuple[dict[str, Callable[[], object]], int]:
    """Everyone emits the same number of tokens per row after the same prompts; `generate` has its own copy."""
    theirs: Any = model_of(sizes, vocabulary)
    model = model_of(sizes, vocabulary)
    decoder = decoder_of(model, compiles=sizes.compiles)
    policy = decoder.policy
    work = emitted(roll(decoder, THOUGHTS["hard"], sizes))
    limits = limits_of(policy, sizes.tokens)
    forced = forced_texts(policy.tokenizer, policy.device, PAPER)
    forced_ids = forced.table[2, : int(forced.length[2])]  # thoughts that end by the limit
    hand = Handwritten(model, sizes.rows, sizes.prompt + sizes.tokens, compiles=sizes.compiles)
    prompts = torch.tensor(prompts_of(sizes))

    def generate() -> None:
        new = work // sizes.rows
        with torch.no_grad():
            theirs.generate(repeated_prompts(sizes), do_sample=True, top_k=0, max_new_tokens=new, pad_token_id=0)

    def by_hand(sigma: float | None) -> None:
        hand.generate(prompts, sizes.group, limits.max_thought_steps, forced_ids, limits.max_answer_tokens, sigma)

    competitors: dict[str, Callable[[], object]] = {
        "hard": lambda: roll(decoder, THOUGHTS["hard"], sizes),
        "soft": lambda: roll(decoder, THOUGHTS["soft"], sizes),
        "generate": generate,
        "handwritten hard": lambda: by_hand(None),
        "handwritten soft": lambda: by_hand(SIGMA),
    }
    return competitors, work
