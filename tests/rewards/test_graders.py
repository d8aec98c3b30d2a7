import subprocess
import sys

import pytest

from softtokens.rewards import grader
from softtokens.rewards.graders import GRADERS
from softtokens.types import UserError, Verdict


@pytest.mark.parametrize("name", GRADERS)
def test_every_grader_tells_right_wrong_and_nothing(name):
    judge = grader(name)
    try:
        completions = [r"\boxed{42}", r"The final answer is: \boxed{41}", "42"]
        assert judge.grade(completions, ["42"] * 3) == [Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER]
        assert judge.grade([], []) == []
    finally:
        judge.close()


def test_an_unknown_grader_names_the_known_ones():
    with pytest.raises(UserError, match=r"'llm'.*exact, math"):
        grader("llm")


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, softtokens.rewards, softtokens.tasks; "
        "print({'torch', 'transformers', 'datasets', 'math_verify', 'sympy'} & set(sys.modules))"
    )
    path = [f"sys.path[:0] = {sys.path!r}"]
    process = subprocess.run(
        [sys.executable, "-c", "import sys; " + "; ".join([*path, code])], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "set()"
