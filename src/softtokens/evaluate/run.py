"""Evaluate one model: the six settings of inference on a task, and multiple choice."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from softtokens.assemble import grader_of, new_folder, problems_of
from softtokens.config import EvaluateConfig
from softtokens.evaluate.nll import ChoiceScores, score_choices
from softtokens.evaluate.passk import bootstrap_interval, ks_up_to, pass_at_k
from softtokens.models.hf import load_policy, resolve_device
from softtokens.models.policy import Policy
from softtokens.rewards import Grader
from softtokens.rollout.batches import batches, require_room
from softtokens.rollout.limits import Limits
from softtokens.tasks import load_choice_items
from softtokens.thoughts import thought_setting
from softtokens.types import Problem, Verdict

Listener = Callable[[str, int, int], None]  # setting, samples done, samples in all


def evaluate(config: EvaluateConfig, *, listener: Listener | None = None) -> dict[str, Any]:
    """Evaluate as configured; returns what is written to results.json (see docs/metrics.md)."""
    torch.set_flush_denormal(True)  # see train.loop
    output = None if config.output is None else new_folder(config.output)
    dtype = getattr(torch, config.dtype)
    problems = problems_of(config.task, default_split="test")
    items = [] if config.choices is None else load_choice_items(config.choices, limit=config.choices_limit)
    device = resolve_device(config.device)
    policy = load_policy(config.model, device=device, dtype=dtype, mask_unused=config.mask_unused)
    require_room(policy, problems, Limits(config.max_thought_steps, config.max_answer_tokens))
    results: dict[str, Any] = {"config": dataclasses.asdict(config), "settings": {}}
    grader = grader_of(config.task)
    sample_file = None if output is None else open(output / "samples.jsonl", "w", encoding="utf-8")  # noqa: SIM115
    try:
        for setting in config.settings:
            result, samples = evaluate_setting(policy, problems, setting, config, grader, listener)
            results["settings"][setting] = result
            if sample_file is not None:
                sample_file.writelines(json.dumps(sample) + "\n" for sample in samples)
        if items:
            results["choices"] = summarize_choices(score_choices(policy, items))
    finally:
        grader.close()
        if sample_file is not None:
            sample_file.close()
    if output is not None:
        (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def evaluate_setting(
    policy: Policy,
    problems: Sequence[Problem],
    setting: str,
    config: EvaluateConfig,
    grader: Grader,
    listener: Listener | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One setting of inference; answers are greedy. Returns the summary and every sample.

    Greedy settings are deterministic, so they take one sample per problem.
    """
    samples = 1 if setting.endswith("greedy") else config.samples
    thought = thought_setting(setting, policy.embedding_rms, gamma=config.gamma)
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, answer_temperature=0.0)
    right = np.zeros(len(problems), dtype=np.int64)
    verdict_counts: Counter[Verdict] = Counter()
    kept: list[dict[str, Any]] = []
    started = time.perf_counter()
    for rows, rollout in batches(
        policy, thought, problems, samples, limits, seed=config.seed, rows_per_batch=config.rows_per_batch
    ):
        verdicts = grader.grade(rollout.answer_texts, [problems[i].answer for i, _ in rows])
        verdict_counts.update(verdicts)
        lengths = rollout.thought_lengths.tolist()
        for row, ((i, sample), verdict) in enumerate(zip(rows, verdicts, strict=True)):
            right[i] += verdict is Verdict.RIGHT
            kept.append(
                {
                    "setting": setting,
                    "problem": problems[i].id,
                    "sample": sample,
                    "thoughts": rollout.thought_texts[row],
                    "answer": rollout.answer_texts[row],
                    "expected": problems[i].answer,
                    "verdict": verdict.value,
                    "thought_length": lengths[row],
                    "stop": rollout.stop_reasons[row].value,
                }
            )
        if listener is not None:
            listener(setting, len(kept), len(problems) * samples)
    kept.sort(key=lambda sample: (sample["problem"], sample["sample"]))
    return summarize_setting(right, samples, verdict_counts, kept, time.perf_counter() - started), kept


def summarize_setting(
    right: np.ndarray, samples: int, verdicts: Counter[Verdict], kept: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Numbers of one setting; shares are between 0 and 1, intervals 95 % by bootstrap over problems."""
    per_k = {k: pass_at_k(right, samples, k) for k in ks_up_to(samples)}
    total = sum(verdicts.values())
    return {
        "problems": len(right),
        "samples": samples,
        "pass@k": {str(k): float(values.mean()) for k, values in per_k.items()},
        "interval": {str(k): bootstrap_interval(values) for k, values in per_k.items()},
        "verdicts": {v.value: verdicts[v] / total for v in Verdict},
        "stops": {s: n / total for s, n in sorted(Counter(sample["stop"] for sample in kept).items())},
        "mean_thought_length": float(np.mean([sample["thought_length"] for sample in kept])),
        "seconds": seconds,
        "right": right.tolist(),
    }


def summarize_choices(scores: ChoiceScores) -> dict[str, Any]:
    return {
        "items": len(scores.correct),
        "accuracy": float(scores.correct.mean()),
        "accuracy_interval": bootstrap_interval(scores.correct),
        "accuracy_normalized": float(scores.correct_normalized.mean()),
        "nll_per_token": float(scores.nll_per_token.mean()),
        "nll_interval": bootstrap_interval(scores.nll_per_token),
    }
