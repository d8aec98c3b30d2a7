"""The table of contents: which sections a report has, in which order."""

from __future__ import annotations

from softtokens.report import overview, training
from softtokens.report.arms import run_arms
from softtokens.report.blocks import Block, Finding, Findings, Report, Section, missing
from softtokens.report.results import Results
from softtokens.report.sources import Sources


def compose(sources: Sources) -> Report:
    arms, results = run_arms(sources.runs), Results(sources)
    sections = [
        Section("overview", "Overview", _overview(arms, results)),
        Section("training", "Training", training.curves(arms) if arms else [missing("no training run was given.")]),
    ]
    if sources.notes:
        notes = Findings([Finding("note", "", note) for note in sources.notes])
        sections.append(Section("files", "What could not be read", [notes]))
    return Report("softtokens report", " · ".join(sources.given), sections)


def _overview(arms, results: Results) -> list[Block]:
    trained: list[Block] = [training.what_was_trained(arms)] if arms else []
    measured = [*overview.verdict(results), *overview.differences(results)] if results.arms else []
    return [*trained, *measured, *([training.cost(arms)] if arms else [])]
