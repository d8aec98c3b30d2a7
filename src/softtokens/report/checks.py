"""Warnings about runs and evaluations that look wrong. Every threshold is here and in docs/report.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median, stdev

from softtokens.report.blocks import Finding, Level, percent, plain
from softtokens.report.estimates import Results, samples_of
from softtokens.report.readers import number, table
from softtokens.report.sources import Cell, Run
from softtokens.report.training import mean_of_ends

THRESHOLDS = {
    "entropy": 0.02,  # nats; exploration has ended below it
    "entropy_fall": 0.1,  # share of the entropy at the start
    "no_spread": 0.5,  # share of problems whose rollouts all got the same reward
    "grader_failed": 0.0,  # share of rollouts or samples
    "mismatch": 1e-3,  # nats per step
    "stopped_by_limit": 0.5,  # share of rollouts or samples
    "no_answer": 0.5,  # share of rollouts or samples
    "short_thoughts": 2.0,  # steps
    "reward_fall": 5.0,  # points of reward, last quarter compared with the first, if more than 3 standard errors
    "term_ratio": 20.0,  # gradient norm of the thought term over that of the answer term
    "few_problems": 100,  # problems in an evaluation
}


def check_run(run: Run) -> list[Finding]:
    """Warnings about a training run. "At the end" means the last tenth of its updates."""
    if not run.metrics:
        return []
    warnings = [*_learning(run), *_numerics(run), *_behaviour(run)]
    return [Finding("warning", run.name, text) for text in warnings]


def _learning(run: Run) -> Iterator[str]:
    limit = THRESHOLDS
    first, last = mean_of_ends(run, "entropy")
    if last is not None and last < limit["entropy"]:
        yield f"Entropy has collapsed: {plain(last)} nats per thought at the end; exploration has ended."
    elif first and last is not None and last < limit["entropy_fall"] * first:
        yield f"Entropy has collapsed from {plain(first)} to {plain(last)} nats per thought."
    flat = mean_of_ends(run, "frac_reward_zero_std")[1]
    if flat is not None and flat >= 1:
        yield "All rollouts of every problem got the same reward at the end: there is nothing to learn from."
    elif flat is not None and flat > limit["no_spread"]:
        yield f"All rollouts of {percent(flat, 0)} % of the problems ended with one reward; they teach nothing."
    yield from _reward_fall(run.column("reward")[1])


def _reward_fall(rewards: list[float]) -> Iterator[str]:
    """Rewards of single updates are noisy, so a fall has to stand out from their spread."""
    n = len(rewards) // 4
    if n < 2:
        return
    first, last = rewards[:n], rewards[-n:]
    error = ((stdev(first) ** 2 + stdev(last) ** 2) / n) ** 0.5
    if fmean(first) - fmean(last) > max(THRESHOLDS["reward_fall"], 3 * error):
        yield f"The reward fell, from {fmean(first):.1f} to {fmean(last):.1f}."


def _numerics(run: Run) -> Iterator[str]:
    keys = {"mismatch/thought_kl", "mismatch/thought_log_prob", "mismatch/answer_log_prob"}
    for key in sorted(keys):
        apart = mean_of_ends(run, key)[1]
        if apart is not None and apart > THRESHOLDS["mismatch"]:
            what = key.removeprefix("mismatch/").replace("_", " ")
            yield f"Sampling and training disagree: mismatch of {what} is {plain(apart)} nats per step at the end."
    thought, answer = (run.column(f"grad_norm/{term}")[1] for term in ("thought", "answer"))
    if thought and answer and median(answer) > 0 and median(thought) / median(answer) > THRESHOLDS["term_ratio"]:
        ratio = median(thought) / median(answer)
        yield f"The thought term's gradient is {ratio:.0f} times the answer term's in norm (medians), and drowns it."
    skipped = sum(run.column("skipped")[1])
    if skipped:
        yield f"{skipped:.0f} of {len(run.metrics)} updates were skipped because of values that were not finite."
    spikes, steps = (sum(run.column(key)[1]) for key in ("thought/spikes", "num_tokens"))
    if spikes:
        clipped = "clipped" if run.config.get("clip_spikes") else "not clipped"
        yield f"{spikes:.0f} of {steps:,.0f} steps had a score longer than spike_norm ({clipped}); each outweighs many."
    unknown = [key for key in ("reward", "entropy", "grad_norm") if _not_finite(run, key)]
    for key in unknown:
        yield f"{key} was not finite in {_not_finite(run, key)} of {len(run.metrics)} updates."


def _behaviour(run: Run) -> Iterator[str]:
    failed = [fmean(v) for v in (run.column(f"verdict/grader_{kind}")[1] for kind in ("error", "timeout")) if v]
    if sum(failed) > THRESHOLDS["grader_failed"]:
        yield f"The grader failed on {percent(sum(failed), 2)} % of the rollouts; they counted as not solved."
    limit = mean_of_ends(run, "stop/limit")[1]
    if limit is not None and limit > THRESHOLDS["stopped_by_limit"]:
        yield f"{percent(limit, 0)} % of the thoughts were cut off by max_thought_steps at the end."
    silent = mean_of_ends(run, "verdict/no_answer")[1]
    if silent is not None and silent > THRESHOLDS["no_answer"]:
        yield f"{percent(silent, 0)} % of the rollouts gave no answer that could be read at the end."
    steps = mean_of_ends(run, "completions/thought_length")[1]
    if steps is not None and steps < THRESHOLDS["short_thoughts"]:
        yield f"Thoughts have shrunk to {steps:.1f} steps: the model has stopped thinking."


def check_evaluation(results: Results) -> list[Finding]:
    """Warnings about an evaluation."""
    findings = []
    for task in results.tasks:
        cells = [cell for (_, where, _), cell in results.sources.cells.items() if where == task]
        problems = {n for n in (number(cell.summary.get("problems")) for cell in cells) if n is not None}
        if problems and min(problems) < THRESHOLDS["few_problems"]:
            findings.append(
                Finding("warning", task, f"Only {min(problems):.0f} problems: intervals are wide, ranks may be luck.")
            )
        if len(problems) > 1:
            shown = " and ".join(f"{n:.0f}" for n in sorted(problems))
            findings.append(
                Finding("warning", task, f"Cells have different numbers of problems ({shown}); do not compare them.")
            )
        findings += [
            Finding("warning", f"{cell.model}, {cell.name}, {task}", text) for cell in cells for text in _cell(cell)
        ]
    return findings


def grouped(findings: Sequence[Finding]) -> list[Finding]:
    """One entry for each subject of the findings, warnings first."""
    texts: dict[tuple[Level, str], list[str]] = {}
    for finding in findings:
        texts.setdefault((finding.level, finding.where), []).append(finding.text)
    ordered = sorted(texts.items(), key=lambda item: item[0][0] != "warning")
    return [Finding(level, where, " ".join(texts)) for (level, where), texts in ordered]


def _cell(cell: Cell) -> Iterator[str]:
    verdicts, stops = table(cell.summary.get("verdicts")), table(cell.summary.get("stops"))
    failed = sum(number(verdicts.get(f"grader_{kind}")) or 0 for kind in ("error", "timeout"))
    if failed > THRESHOLDS["grader_failed"]:
        yield f"The grader failed on {percent(failed, 2)} % of the samples; they count as not solved."
    limit = number(stops.get("limit"))
    if limit is not None and limit > THRESHOLDS["stopped_by_limit"]:
        yield f"{percent(limit, 0)} % of the thoughts were cut off by max_thought_steps."
    silent = number(verdicts.get("no_answer"))
    if silent is not None and silent > THRESHOLDS["no_answer"]:
        yield f"{percent(silent, 0)} % of the samples gave no answer that could be read."
    if samples_of(cell) < 1 or not number(cell.summary.get("problems")):
        yield "There are no samples in this cell; nothing can be said of it."


def check_runs(runs: Sequence[Run]) -> list[Finding]:
    """Warnings about runs that cannot be compared with each other."""
    findings = [finding for run in runs for finding in check_run(run)]
    for what, values in (("tasks", {run.task for run in runs}), ("models", {run.model for run in runs})):
        if len(values) > 1:
            names = ", ".join(sorted(values))
            findings.append(
                Finding("warning", "", f"The runs have different {what} ({names}); their curves do not compare.")
            )
    for run in runs:
        goal, done = number(run.config.get("steps")), number(run.metrics[-1].get("step")) if run.metrics else 0
        if goal is not None and done is not None and done < goal:
            findings.append(Finding("note", run.name, f"{done:.0f} of {goal:.0f} updates are done."))
    return findings


def _not_finite(run: Run, key: str) -> int:
    """How many updates have a value that could not be written as a number."""
    return sum(1 for row in run.metrics if key in row and number(row[key]) is None)
