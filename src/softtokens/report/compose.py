"""Composition of a report: which sections it has, in which order."""

from __future__ import annotations

from collections.abc import Callable

from softtokens.report import (
    ablations,
    checks,
    claims,
    diagnostics,
    out_of_domain,
    overview,
    signal,
    six_settings,
    softness,
    solving,
    training,
    viewer,
)
from softtokens.report.arms import Arm, run_arms
from softtokens.report.blocks import Block, Finding, Findings, Report, Section, Words, missing
from softtokens.report.estimates import Results
from softtokens.report.sources import Run, Sources

NO_EVALUATION = "no evaluation was given. Make one with: softtokens evaluate --models BASE RUN ... --output EVAL"
NO_TRAINING = "no training run was given."


def compose(sources: Sources) -> Report:
    arms, results = run_arms(sources.runs), Results(sources)
    evaluated = bool(sources.cells)

    def measured(make: Callable[[Results], list[Block]]) -> list[Block]:
        return make(results) if evaluated else [missing(NO_EVALUATION)]

    traces = measured(viewer.of_evaluation)
    sections = [
        Section("overview", "Overview", _overview(arms, results), overview.in_words(results)),
        Section("training", "Training", training.curves(arms) if arms else [missing(NO_TRAINING)]),
        Section("solving", "More samples", measured(solving.figures)),
        Section("softness", "Entropy and softness", measured(softness.blocks)),
        Section("ablations", "Temperature and noise", measured(ablations.blocks)),
        Section("elsewhere", "Out of domain", out_of_domain.blocks(results)),
        Section("settings", "All six settings", measured(six_settings.blocks)),
        Section("diagnostics", "Diagnostics", _diagnostics(arms, results)),
        *([Section("signal", "Signal of the gradient", signal.blocks(sources.signals))] if sources.signals else []),
        Section("traces", "Traces", traces, _HOW_TO_READ if evaluated else ""),
        Section(
            "rollouts",
            "Rollouts of training",
            viewer.of_training([run for arm in arms for run in arm.members]) or [missing(NO_TRAINING)],
        ),
        Section("about", "About these numbers", _about(sources)),
    ]
    title, subtitle = overview.title(sources)
    return Report(title, subtitle, sections)


_HOW_TO_READ = (
    "Each cell is one thought step, shown by its token: the one that was fed in hard settings, the most likely one of "
    "the mixture in the others. The stronger its colour, the higher the entropy; the small number is the effective "
    "support, where more than one token is in play. Choose a cell to see its weights; arrow keys go from step to step "
    "and from model to model."
)


def _overview(arms: list[Arm[Run]], results: Results) -> list[Block]:
    trained: list[Block] = [training.what_was_trained(arms)] if arms else []
    if results.sources.cells:
        verdict = [*overview.verdict(results), *claims.tables(results), *overview.differences(results)]
    else:
        verdict = [missing(NO_EVALUATION)]
    return [*trained, *verdict, *([training.cost(arms)] if arms else [])]


def _diagnostics(arms: list[Arm[Run]], results: Results) -> list[Block]:
    findings = checks.grouped([*checks.check_runs(results.sources.runs), *checks.check_evaluation(results)])
    sick: list[Block] = (
        [Findings(findings)] if findings else [Words("Nothing here looks sick by the thresholds below.")]
    )
    cells = diagnostics.of_evaluation(results)
    return [*sick, *(diagnostics.of_training(arms) if arms else []), *([cells] if cells else [])]


def _about(sources: Sources) -> list[Block]:
    blocks: list[Block] = [
        Words(
            "Intervals are 95 % and over problems: how far a number would move with other problems of the same kind. "
            "They say nothing of other training seeds; only runs with several seeds do. pass@k is estimated without "
            "bias from n ≥ k samples of each problem. Differences are paired: the same problems for both. Their "
            "significance is by random signs, corrected by Holm's method for the number of comparisons in the table."
        ),
        Words(
            "Warnings are given by these thresholds: "
            + "; ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in checks.THRESHOLDS.items())
            + "."
        ),
    ]
    if sources.notes:
        blocks.append(Findings([Finding("note", "", note) for note in sources.notes]))
    return blocks
