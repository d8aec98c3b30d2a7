import os
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rewards.math import MathGrader
from softtokens.rewards.pool import WorkerPool
from softtokens.types import Verdict

RIGHT, WRONG, TIMEOUT = Verdict.RIGHT, Verdict.WRONG, Verdict.GRADER_TIMEOUT


@pytest.fixture(scope="module")
def grader():
    with MathGrader(timeout_s=20.0) as grader:
        yield grader


def judge(grader, pairs):
    return grader.grade(
        [rf"The final answer is: \boxed{{{given}}}." for given, _ in pairs], [gold for _, gold in pairs]
    )


def test_equal_mathematics_in_other_words_is_right(grader):
    pairs = [
        ("0.5", r"\frac{1}{2}"),
        (r"\frac12", "1/2"),
        ("2, 1", r"\{1,2\}"),
        ("5", "x=5"),
        ("-q + p", "p - q"),
        ("90", r"90^\circ"),
        ("Evelyn", r"\text{Evelyn}"),
        ("10{,}000", "10000"),
        ("0.333333", "0.3333333333"),
        ("72.0", "72"),
    ]
    assert judge(grader, pairs) == [RIGHT] * len(pairs)


def test_other_mathematics_is_wrong(grader):
    pairs = [
        ("(2,1)", "(1,2)"),
        ("72 or 73", "72"),
        (r"\frac{72", "72"),
        ("x^2", "x^3"),
        ("[1,2]", "(1,2)"),
        ("6", "7"),
    ]
    pairs += [("2" + "0" * 20 + "1", "2" + "0" * 20), (r"\text{north}", r"\text{south}"), ("?", "7"), ("1/3", "0.33")]
    assert judge(grader, pairs[:2] + pairs[3:]) == [WRONG] * (len(pairs) - 1)
    # An unfinished fraction cannot stand in a finished box, but an unfinished command can.
    assert judge(grader, [(r"\frac 72 {", "72")]) == [Verdict.NO_ANSWER]


def test_plain_answers_need_no_process():
    grader = MathGrader()
    grader._pool = WorkerPool(["/no/such/program"], workers=1, timeout_s=1.0)
    pairs = [("1,234", "1234"), ("41", "42"), (" x+1 ", "x+1"), ("9" * 3000, "42"), ("{}" * 1001, "42"), ("+7.0", "7")]
    assert judge(grader, pairs) == [RIGHT, WRONG, RIGHT, WRONG, WRONG, RIGHT]
    assert grader.grade(["no box", r"\boxed{", r"\boxed{ }"], ["1"] * 3) == [Verdict.NO_ANSWER] * 3


def test_the_same_pair_is_judged_once(grader):
    class Counting:
        def ask_all(self, questions):
            asked.extend(questions)
            return [{"right": True}] * len(questions)

    asked = []
    counting = MathGrader()
    counting._pool = Counting()
    assert judge(counting, [("x", "y"), ("z", "y"), ("x", "y")]) == [RIGHT] * 3
    assert asked == [{"given": "x", "expected": "y"}, {"given": "z", "expected": "y"}]


ENDLESS = [r"9^{9^{9^{9}}}", "(" * 900 + "1" + ")" * 900]
HOSTILE = [
    "9**9**9**9",
    r"\frac{1}{" * 3000 + "1" + "}" * 3000,
    r"\frac{1}{" * 30 + "1" + "}" * 30,
    "{" * 50_000 + "}" * 50_000,
    "\\{" * 90,
    "\0\0 5",
    "\ud800\udfff",
    "\u202e٥\u2028\u0085",
    "1," * 900,
    "x=" * 90,
    "9" * 1999 + ".5",
    r"\sqrt{" * 30 + "2" + "}" * 30,
    "__import__('os').abort()",
    r"\input{/dev/zero}",
    "%" * 500,
    "$" * 501 + "x",
    " ",
    "x" * 1_000_000,
    '"}\n{"right": true}\n',
]


@pytest.mark.timeout(120)
def test_no_text_hangs_crashes_or_passes():
    with MathGrader(timeout_s=0.5) as grader:
        verdicts = judge(grader, [(text, "7") for text in HOSTILE + ENDLESS])
        assert RIGHT not in verdicts and Verdict.GRADER_ERROR not in verdicts
        assert verdicts[-len(ENDLESS) :] == [TIMEOUT] * len(ENDLESS)
        expected = ["9^{9^{9^{9}}}", "\0\ud800", "{" * 100_000, ""]
        verdicts = judge(grader, [("8.5", text) for text in expected])
        assert RIGHT not in verdicts and verdicts[0] is TIMEOUT
        grader._pool._timeout_s = 20.0  # half a second is not enough for every honest answer on a busy machine
        assert judge(grader, [("0.5", "1/2"), ("0.4", "1/2")]) == [RIGHT, WRONG]


def test_a_killed_worker_is_replaced_and_its_answer_graded():
    with MathGrader(workers=1) as grader:
        assert judge(grader, [("0.5", "1/2")]) == [RIGHT]
        os.kill(grader._pool._slots[0]._process.pid, 9)
        assert judge(grader, [("0.25", "1/4"), ("0.3", "1/4")]) == [RIGHT, WRONG]


def write_math_verify(folder, body):
    (folder / "math_verify.py").write_text(body)


STUB = "def LatexExtractionConfig(**options): ...\ndef parse(text, *rest, **options): return [text[7:-1]]\n"


def test_a_missing_math_verify_is_loud(tmp_path, monkeypatch):
    write_math_verify(tmp_path, "raise ImportError('no antlr')")
    monkeypatch.syspath_prepend(tmp_path)
    with MathGrader() as grader, pytest.raises(RuntimeError, match=r"no antlr.*pip install math-verify"):
        judge(grader, [("x", "y")])


@pytest.mark.parametrize("body", ["return False", "return True", "raise TypeError('new signature')"])
def test_a_broken_math_verify_is_loud(tmp_path, monkeypatch, body):
    write_math_verify(tmp_path, STUB + f"def verify(*_, **__): {body}")
    monkeypatch.syspath_prepend(tmp_path)
    with MathGrader() as grader, pytest.raises(RuntimeError, match="Math-Verify"):
        judge(grader, [("x", "y")])


def test_what_libraries_print_does_not_disturb(tmp_path, monkeypatch):
    equal = "print('noise', flush=True); import os; os.write(1, b'noise'); return a == b or {a, b} == {'0.5', '%s'}"
    write_math_verify(tmp_path, STUB + "def verify(a, b, **_): " + equal % r"\\frac{1}{2}")
    monkeypatch.syspath_prepend(tmp_path)
    with MathGrader() as grader:
        assert judge(grader, [("x+1", "x+2"), ("0.5", r"\frac{1}{2}")]) == [WRONG, RIGHT]


def test_total_failure_is_loud_and_single_failures_are_data():
    failing = (
        'import json, sys; print(json.dumps({"ready": True}), flush=True)\n'
        'for line in sys.stdin: print(json.dumps({"error": "E"} if "y" in line else {"right": False}), flush=True)'
    )
    with MathGrader() as grader:
        grader._pool = WorkerPool([sys.executable, "-c", failing], workers=2, timeout_s=20.0)
        few = [(f"y+{i}", "y") for i in range(7)]
        assert judge(grader, few * 3) == [Verdict.GRADER_ERROR] * 21
        assert judge(grader, [*few, ("z", "x"), ("1", "1")]) == [Verdict.GRADER_ERROR] * 7 + [WRONG, RIGHT]
        with pytest.raises(RuntimeError, match="each of the last 8 answers"):
            judge(grader, [*few, ("y+7", "y"), ("1", "1")])


def test_total_failure_is_noticed_in_small_batches():
    failing = (
        'import json, sys; print(json.dumps({"ready": True}), flush=True)\n'
        'for line in sys.stdin: print(json.dumps({"error": "E"} if "y" in line else {"right": False}), flush=True)'
    )
    with MathGrader() as grader:
        grader._pool = WorkerPool([sys.executable, "-c", failing], workers=1, timeout_s=20.0)
        for _ in range(3):  # the same hostile answer counts once
            judge(grader, [(f"y+{i}", "y") for i in range(5)])
        judge(grader, [("z", "x")])
        judge(grader, [(f"y+{i}", "y") for i in range(7)])
        with pytest.raises(RuntimeError, match="each of the last 8 answers"):
            judge(grader, [("y+7", "y")])


def test_answers_are_grouped_as_they_are_graded(grader):
    groups = [
        ["0.5", r"\frac{1}{2}", "2/4", r"0.50", "50%"],
        ["1 1/2", "3/2", "1.5"],
        ["11/2"],
        [r"x^2 + 2x + 1", "(x+1)^2"],
        ["x^2 + 1"],
        ["7 km"],
        ["7 m"],
        [r"\{1, 2\}", "2, 1"],
        ["(2, 1)"],
        ["NOON"],
        ["north"],
        ["9" * 3000, "9" * 3000 + ".0"],
    ]
    answers = [answer for group in groups for answer in group]
    expected = [answers.index(group[0]) for group in groups for _ in group]
    assert grader.groups(answers) == expected
    assert grader.groups([]) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.fractions(-9, 9, max_denominator=8), min_size=1, max_size=12))
def test_equal_values_share_a_group_and_different_values_never_do(grader, values):
    spell = [
        lambda v: rf"\frac{{{v.numerator}}}{{{v.denominator}}}",
        lambda v: f"{3 * v.numerator}/{3 * v.denominator}",
        lambda v: f"{float(v)!r}" if v.denominator in (1, 2, 4, 5, 8) else f"{v.numerator}/{v.denominator}",
    ]
    groups = grader.groups([spell[i % 3](value) for i, value in enumerate(values)])
    assert groups == [values.index(value) for value in values]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(["1/2", "0.5", "50", "50%", "7 m", "7 km", "7", "x", "y", "2", r"\pm 2"]), min_size=1))
def test_two_answers_share_a_group_exactly_when_one_is_right_for_the_other(grader, answers):
    groups = grader.groups(answers)
    for i, first in enumerate(groups):
        assert i == first or judge(grader, [(answers[i], answers[first])]) == [RIGHT]
        leaders = sorted({j for j in groups[:i]})
        verdicts = judge(grader, [(answers[i], answers[j]) for j in leaders])
        assert first == next((j for j, verdict in zip(leaders, verdicts, strict=True) if verdict is RIGHT), i)


def test_hostile_answers_are_groups_of_their_own_and_cost_one_time_limit_each():
    with MathGrader(timeout_s=0.5) as grader:
        grader.groups(["x"])
        started = time.perf_counter()
        assert grader.groups([*ENDLESS, "1/4", "\0\ud800", *ENDLESS]) == [0, 1, 2, 3, 0, 1]
        # replacing workers takes longer than the limit
        assert time.perf_counter() - started < 30


@pytest.mark.parametrize("options", [{"workers": 0}, {"timeout_s": 0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MathGrader(**options)
