import itertools
import json

import numpy as np
import pytest

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.thought import PAPER_SETTINGS, ThoughtConfig
from softtokens.endings import PAPER
from softtokens.evaluate.cells import Cell, cells_of
from softtokens.evaluate.named_sources import named_sources, split_name
from softtokens.evaluate.run import thought_of
from softtokens.evaluate.summary import summarize, votes_of
from softtokens.rewards.exact import ExactGrader
from softtokens.thoughts import Dirichlet, Gaussian, Hard, LogitGaussian, Multiplex, SoftThinking, thought_setting
from softtokens.types import UserError

from .conftest import make_cell


def test_the_papers_cells_are_named_after_the_settings():
    cells = cells_of(EvaluateConfig())
    assert tuple(cell.name for cell in cells) == PAPER_SETTINGS
    for cell in cells:
        assert thought_of(cell, 0.7) == thought_setting(cell.setting, 0.7)


def test_the_cell_as_trained_is_the_thought_of_the_run_whatever_the_grids():
    config = EvaluateConfig(settings=("as-trained", "soft-sample"), taus=(0.05,), gammas=(0.1,))
    assert [cell.name for cell in cells_of(config)] == ["soft-sample_tau=0.05_gamma=0.1"]
    cell, _ = cells_of(config, ThoughtConfig("fuzzy", tau=0.1, gamma=0.7))
    assert (cell.name, cell.temperature, cell.gamma, cell.is_greedy) == ("as-trained", 0.1, 0.7, False)
    cell, _ = cells_of(config, ThoughtConfig("hard", tau=0.8))
    assert (cell.name, cell.temperature, cell.gamma) == ("as-trained", 0.8, None)


def test_grids():
    config = EvaluateConfig(temperatures=(0.2, 1.0), gammas=(0.1, 0.33), taus=(0.5, 0.05))
    assert [cell.name for cell in cells_of(config)] == [
        "hard-greedy",
        "hard-sample_T=0.2",
        "hard-sample",
        "soft-greedy",
        "soft-greedy_tau=0.05",
        "soft-sample_gamma=0.1",
        "soft-sample",
        "soft-sample_tau=0.05_gamma=0.1",
        "soft-sample_tau=0.05",
        "fuzzy-greedy",
        "fuzzy-sample_gamma=0.1",
        "fuzzy-sample",
    ]


def test_other_families_have_settings_and_a_grid_of_temperatures():
    settings = ("multiplex-sample", "dirichlet-sample", "soft-thinking-greedy")
    cells = cells_of(EvaluateConfig(settings=settings, temperatures=(0.5, 1.0)))
    assert [cell.name for cell in cells] == [name for one in settings for name in (f"{one}_T=0.5", one)]
    assert [cell.temperature for cell in cells] == [0.5, 1.0] * 3
    assert {cell.gamma for cell in cells} == {None}
    thoughts = [Multiplex(3, 0.5), Multiplex(3), Dirichlet(5, 1.0, 0.5), Dirichlet(5, 1.0)]
    assert [thought_of(cell, 0.7) for cell in cells] == [*thoughts, SoftThinking(5, 0.5), SoftThinking(5)]


@pytest.mark.parametrize(
    ("cell", "thought"),
    [
        (make_cell("hard-greedy"), Hard(0.0)),
        (make_cell("hard-sample", tau=0.6), Hard(0.6)),
        (make_cell("soft-greedy", tau=0.1), Gaussian(0.1, 0.0)),
        (make_cell("soft-sample", tau=0.1, gamma=1.0), Gaussian(0.1, 0.7)),
        (make_cell("fuzzy-sample", gamma=0.5), Gaussian(1e-4, 0.35)),
        (
            Cell("as-trained", ThoughtConfig("soft", gamma=0.2, noise="top-k", top_k=3), False),
            LogitGaussian(0.5, 0.2, 3),
        ),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_a_cell_thinks_with(cell, thought):
    assert thought_of(cell, 0.7) == thought


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("tiny", "tiny", "tiny"),
        ("runs/hard/", "hard", "runs/hard/"),
        ("meta-llama/Llama-3.2-3B", "Llama-3.2-3B", "meta-llama/Llama-3.2-3B"),
        ("runs/soft/checkpoints/best", "soft-best", "runs/soft/checkpoints/best"),
        ("data/gsm8k/test.jsonl.gz", "gsm8k", "data/gsm8k/test.jsonl.gz"),
        ("data/mine.csv", "mine", "data/mine.csv"),
        ("./test.jsonl", "test", "./test.jsonl"),
        ("base=runs/x", "base", "runs/x"),
        ("runs/[bold]x[/bold] y", "bold-y", "runs/[bold]x[/bold] y"),
    ],
)
def test_names(text, name, source):
    assert split_name(text) == (name, source)


def test_a_path_with_an_equals_sign_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    assert split_name("lr=1") == ("lr=1", "lr=1")


@pytest.mark.parametrize("text", ["..", "/", "...", "*", "<>"])
def test_what_gives_no_name(text):
    with pytest.raises(UserError, match="no name can be made from"):
        split_name(text)


def test_two_of_the_same_name():
    with pytest.raises(UserError, match="models: 'a/hard' and 'b/hard' would both be named 'hard'"):
        named_sources("models", ["a/hard", "b/hard"])
    assert named_sources("models", ["a/hard", "other=b/hard"]) == {"hard": "a/hard", "other": "b/hard"}


def sample(problem, number, extracted, verdict, *, thoughts=3, seconds=0.5):
    return {
        "problem": problem,
        "sample": number,
        "extracted": extracted,
        "verdict": verdict,
        "stop": "phrase" if thoughts < 6 else "limit",
        "thought_length": thoughts,
        "answer_length": 2,
        "seconds": seconds,
    }


def test_votes():
    own = [sample(0, i, text, verdict) for i, (text, verdict) in enumerate([("7", "wrong"), (None, "no_answer")])]
    own += [sample(0, 2 + i, text, "right") for i, text in enumerate(("8", "8.0"))]
    assert votes_of(own, ExactGrader()) == [[2, 1], [1, 0]]
    assert votes_of(own[1:2], ExactGrader()) == []


def voted(*answers, grader=None):
    own = [sample(0, i, text, verdict) for i, (text, verdict) in enumerate(answers)]
    return votes_of(own, grader or ExactGrader())


def test_a_vote_counts_as_right_exactly_the_answers_that_are_graded_right():
    wrong, right = ("1 1/2", "wrong"), ("11/2", "right")  # the same text once white space is removed
    assert voted(wrong, right, wrong, wrong) == [[3, 0], [1, 1]]
    assert voted(*((text, "wrong") for text in ("+5", "5", r"\$5.0", "-0", "0"))) == [[3, 0], [2, 0]]


def test_right_answers_share_a_vote_even_where_they_do_not_equal_each_other():
    assert voted(("5 km", "right"), ("5 m", "right"), *[("6", "wrong")] * 3) == [[3, 0], [2, 1]]


def test_answers_that_the_grader_fails_on_are_not_shown_to_it_again():
    class Once(ExactGrader):
        def groups(self, answers):
            assert answers == ["2", "1"]
            return super().groups(answers)

    own = [("2", "wrong"), ("9^9^9", "grader_timeout"), ("9^9^9", "grader_timeout"), ("1", "wrong"), ("2", "wrong")]
    assert voted(*own, grader=Once()) == [[2, 0], [2, 0], [1, 0]]


def test_votes_do_not_depend_on_the_order_of_samples():
    class Near(ExactGrader):  # each equals the next, which is not transitive
        def groups(self, answers):
            leaders = []
            for i, answer in enumerate(answers):
                leaders.append(next((j for j in leaders if abs(int(answers[j]) - int(answer)) <= 1), i))
            return leaders

    own = [(text, "wrong") for text in "1233444"]
    orders = itertools.islice(itertools.permutations(own), 0, 5040, 97)
    assert {str(voted(*order, grader=Near())) for order in orders} == {"[[5, 0], [2, 0]]"}


def test_summary_by_hand():
    samples = [
        sample(5, 0, "1", "right"),
        sample(5, 1, "2", "wrong", thoughts=6),
        sample(9, 0, "3", "wrong"),
        sample(9, 1, None, "no_answer", thoughts=4),
    ]
    summary = summarize(
        samples,
        [5, 9],
        "m",
        "t",
        make_cell("hard-sample", tau=0.6),
        seed=3,
        grader=ExactGrader(),
        stop_reasons=PAPER.reasons,
    )
    assert summary["right"] == [1, 0]
    assert summary["votes"] == [[[1, 1], [1, 0]], [[1, 0]]]
    assert {k: v["value"] for k, v in summary["pass@k"].items()} == {"1": 0.25, "2": 0.5}
    assert {k: v["value"] for k, v in summary["maj@k"].items()} == {"1": 0.25, "2": 0.25}
    assert summary["mean@n"] == summary["pass@k"]["1"]
    assert summary["verdicts"] == {
        "right": 0.25,
        "wrong": 0.5,
        "no_answer": 0.25,
        "grader_timeout": 0,
        "grader_error": 0,
    }
    assert summary["stops"] == {"phrase": 0.75, "limit": 0.25, "eos": 0.0}
    assert summary["thought_length"] == {"mean": 4.0, "median": 3.5, "p95": pytest.approx(5.7)}
    assert (summary["tokens"], summary["seconds"], summary["tokens_per_second"]) == (24, 2.0, 12.0)
    identity = ("model", "task", "cell", "setting", "temperature", "gamma", "problems", "samples", "seed")
    expected = ["m", "t", "hard-sample_T=0.6", "hard-sample", 0.6, None, 2, 2, 3]
    assert [summary[key] for key in identity] == expected
    assert ThoughtConfig(**summary["thought"]) == ThoughtConfig("hard", tau=0.6)
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(("verdict", "value"), [("right", 1.0), ("wrong", 0.0)])
def test_all_alike(verdict, value):
    samples = [sample(i, n, "1", verdict, seconds=0.0) for i in range(3) for n in range(2)]
    summary = summarize(
        samples,
        [0, 1, 2],
        "m",
        "t",
        make_cell("soft-sample"),
        seed=0,
        grader=ExactGrader(),
        stop_reasons=PAPER.reasons,
    )
    curves = [*summary["pass@k"].values(), *summary["maj@k"].values()]
    assert {curve["value"] for curve in curves} == {value}
    assert all(curve["low"] <= value <= curve["high"] and curve["low"] < curve["high"] for curve in curves)
    assert summary["tokens_per_second"] is None
    assert np.isfinite([curve["low"] for curve in curves]).all()
