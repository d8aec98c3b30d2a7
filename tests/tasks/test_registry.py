import dataclasses
import json
import subprocess
import sys

import pytest

from softtokens.tasks import load_problems
from softtokens.tasks.prompt import MATH_MESSAGE, MATH_TEMPLATE
from softtokens.tasks.registry import ARITHMETIC, TASKS, load_task
from softtokens.types import Problem, UserError


@pytest.fixture
def file_of(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def without_spans(problems):
    """The problems without the places of the data in their prompts, which have a test of their own."""
    return [dataclasses.replace(problem, literal=()) for problem in problems]


def asked(question):
    return MATH_TEMPLATE.replace("{question}", question)


def test_problems_of_a_file(file_of):
    path = file_of(
        {"question": "What is {0} in \\boxed{question}?", "answer": "1", "level": 2}, {"question": "B?", "answer": 5}
    )
    assert without_spans(load_problems(path)) == [
        Problem(0, asked("What is {0} in \\boxed{question}?"), "1", {"level": 2}),
        Problem(1, asked("B?"), "5"),
    ]
    assert [p.id for p in load_problems(path, limit=1)] == [0]
    assert load_problems(path, template="{{}}\n{question} {question}")[1].prompt == "{{}}\nB? B?"


def test_the_default_prompt_says_how_to_end():
    assert MATH_TEMPLATE.count("{question}") == 1
    for part in ("step by step", '"The final answer is: "', r"\boxed{}", "\nUser: {question}\nAssistant:"):
        assert part in MATH_TEMPLATE
    assert MATH_TEMPLATE.endswith("Assistant:")


def test_other_column_names(file_of):
    path = file_of({"q": "A?", "gold": "1", "answer": "no", "problem": "no"})
    (problem,) = without_spans(load_problems(path, question="q", answer="gold"))
    assert problem == Problem(0, asked("A?"), "1", {"answer": "no", "problem": "no"})


def test_a_prompt_column_is_used_as_it_is(file_of):
    path = file_of({"prompt": " A? {question}", "question": "B?", "answer": "1"})
    assert without_spans(load_problems(path)) == [Problem(0, " A? {question}", "1", {"question": "B?"})]
    assert load_problems(path, question="question")[0].prompt == asked("B?")
    assert without_spans(load_problems(path, template="{question}!")) == [
        Problem(0, "B?!", "1", {"prompt": " A? {question}"})
    ]


@pytest.mark.parametrize(
    ("task", "row", "answer"),
    [
        ("gsm8k", {"question": "A?", "answer": "6 * 200 = <<6*200=1200>>1200.\n#### 1,200"}, "1200"),
        ("gsm8k", {"question": "A?", "answer": "-1,200"}, "-1200"),
        ("openai/gsm8k", {"question": "A?", "answer": "#### 7"}, "7"),
        ("math", {"problem": "A?", "solution": r"so \boxed{1}, no: $\boxed{\frac{1}{2}\}}$."}, r"\frac{1}{2}\}"),
        ("math", {"problem": "A?", "solution": r"so $\boxed 7$ of them"}, "7"),
        ("math", {"problem": "A?", "solution": r"so \fbox{B}"}, "B"),
        ("math500", {"problem": "A?", "solution": r"\boxed{no}", "answer": " p - q "}, "p - q"),
        ("olympiadbench", {"question": "A?", "final_answer": ["$2$", " $\\frac{1}{2}$ "]}, r"2, \frac{1}{2}"),
        ("olympiadbench", {"question": "A?", "answer": "(1,2)"}, "(1,2)"),
        ("deepscaler", {"problem": "A?", "answer": "1/2", "solution": "long"}, "1/2"),
    ],
)
def test_each_task_reads_its_rows(file_of, task, row, answer):
    (problem,) = load_problems(task, path=file_of(row))
    assert (problem.prompt, problem.answer) == (asked("A?"), answer)


def test_a_gsm8k_solution_is_read_even_where_nobody_says_gsm8k(file_of):
    (problem,) = load_problems(file_of({"question": "A?", "answer": "3 + 4 = 7\n#### 7"}))
    assert problem.answer == "7"


@pytest.mark.parametrize("spec", TASKS.values(), ids=lambda spec: spec.name)
def test_a_task_asks_the_hub_for_what_it_is_there(spec, monkeypatch):
    calls = []

    def load_rows(source, **options):
        calls.append((source, options))
        return [{"question": "A?", "answer": "1"}]

    monkeypatch.setattr("softtokens.tasks.registry.load_rows", load_rows)
    for split, theirs in [(None, next(iter(spec.splits.values()))), *spec.splits.items()]:
        load_problems(spec.name, split=split, limit=3)
        expected = {"split": theirs, "config": spec.config, "limit": 3, "usual_split": None}
        assert calls.pop() == (spec.hub, expected)
    load_problems(spec.name, path="folder", split="mine")
    assert calls.pop() == ("folder", {"split": "mine", "config": None, "limit": None, "usual_split": None})
    with pytest.raises(UserError, match=f"split is 'dev'; the task {spec.name!r} has {', '.join(spec.splits)}"):
        load_problems(spec.name, split="dev")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"q": "A?", "answer": "1"}],
            r"no column 'question' or 'problem'; it has 'q', 'answer'. .*option question",
        ),
        ([{"question": "A?", "a": "1"}], r"no column 'answer' or 'solution'; it has 'question', 'a'. .*option answer"),
        ([{"question": "A?", "answer": "1"}, {"question": "B?"}], r"row 1 .*'answer' is missing or null"),
        ([{"question": "A?", "answer": "1"}, {"question": None, "answer": "1"}], r"row 1 .*'question' is missing"),
        ([{"question": "A?", "answer": " "}], r"row 0 .*'answer': the answer is empty"),
        ([{"question": "", "answer": "1"}], r"row 0 .*'question' is empty"),
        ([{"question": ["A?"], "answer": "1"}], r"row 0 .*'question' is a list of 1, .* has to be a text"),
        ([{"question": "A?", "answer": {"x": 1}}], r"row 0 .*'answer': the answer is \{'x': 1\}, a dict"),
        ([{"question": "A?", "answer": "so\n####"}], r"row 0 .*'answer': what follows ####.* is empty"),
        ([{"question": "\ud800", "answer": "1"}], r"row 0 .*surrogate"),
        ([{"prompt": [{"role": "user"}], "answer": "1"}], r"row 0 .*'prompt' is a list of messages; add --chat"),
        ([{"prompt": "A?", "answer": "1"}, {"answer": "1"}], r"row 1 .*'prompt' is missing"),
    ],
)
def test_rows_that_are_no_problems(file_of, rows, message):
    with pytest.raises(UserError, match=message):
        load_problems(file_of(*rows))


@pytest.mark.parametrize("solution", ["no box", r"\boxed{1", r"\boxed{}", r"x \boxed"])
def test_a_solution_without_answer(file_of, solution):
    with pytest.raises(UserError, match=r"row 0 .*'solution': the solution"):
        load_problems("math", path=file_of({"problem": "A?", "solution": solution}))


def test_a_template_needs_a_place_for_the_question(file_of):
    for template in ("", "{}", "{Question}"):
        with pytest.raises(UserError, match=r"template is .*\{question\}"):
            load_problems(file_of({"question": "A?", "answer": "1"}), template=template)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (r"User: {question}\nAssistant:", "User: A?\nAssistant:"),
        (r"{question}\n\n", "A?\n\n"),
        (r"$x \neq 1$ and \nabla f, \not \nu \ni x: {question}", r"$x \neq 1$ and \nabla f, \not \nu \ni x: A?"),
        ("{question}\n\\boxed{}", "A?\n\\boxed{}"),
    ],
)
def test_a_backslash_and_n_is_a_line_end_unless_it_begins_a_command(file_of, template, prompt):
    assert load_problems(file_of({"question": "A?", "answer": "1"}), template=template)[0].prompt == prompt


def test_answers_may_be_missing_only_where_nothing_compares_with_them(file_of):
    path = file_of({"question": "A?", "level": 1}, {"question": "B?"})
    with pytest.raises(UserError, match=r"no column 'answer'.*grader compares.*reward function of your own"):
        load_problems(path)
    problems = [Problem(0, asked("A?"), None, {"level": 1}), Problem(1, asked("B?"), None)]
    assert without_spans(load_problems(path, needs_answers=False)) == problems
    with pytest.raises(UserError, match="no column 'gold'"):  # a column named by the user must exist
        load_problems(path, answer="gold", needs_answers=False)
    mixed = file_of({"question": "A?", "answer": "1"}, {"question": "B?", "answer": None})
    assert [p.answer for p in load_problems(mixed, needs_answers=False)] == ["1", None]


def test_numbers_of_a_file_are_answers_that_the_grader_reads(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [f'{{"question": "A?", "answer": {number}}}\n' for number in ("1e-05", "1e23", "9007199254740993")]
    path.write_text("".join(rows))
    assert [p.answer for p in load_problems(str(path))] == ["0.00001", "1" + "0" * 23, "9007199254740993"]
    path.write_text('{"question": "A?", "answer": 1}\n{"question": "B?", "answer": -Infinity}\n')
    with pytest.raises(UserError, match=r"row 1 .*'answer': the answer is -inf; it has to be .*a finite number"):
        load_problems(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"task is 'gsm9k'; it must be one of arithmetic, arithmetic-long, gsm8k, math, math500"
    ):
        load_problems("gsm9k")
    with pytest.raises(UserError, match=r"task is 'a.jsonl'; with a path it has to be one of gsm8k"):
        load_problems("a.jsonl", path="b.jsonl")
    with pytest.raises(UserError, match="no file or folder"):
        load_problems("./gsm8k")


@pytest.mark.parametrize("task", ARITHMETIC)
def test_arithmetic(task):
    first = load_problems(task, limit=3)
    assert [p.id for p in first] == [0, 1, 2] and first == load_problems(task, split="train", limit=4)[:3]
    assert load_problems(task, limit=3, seed=1) != first != load_problems(task, limit=3, split="test")
    (other,) = load_problems(task, limit=1, template="Q: {question}")
    assert other.prompt == "Q: " + first[0].columns["question"] and other.answer == first[0].answer
    with pytest.raises(UserError, match=r"answer is 'a'; the task 'arithmetic"):
        load_problems(task, answer="a")
    with pytest.raises(UserError, match="0"):
        load_problems(task, limit=0)


def test_a_million_made_problems_are_enough():
    with pytest.raises(UserError, match=r"limit is 999,999,999,999; the task 'arithmetic' makes at most 1,000,000"):
        load_problems("arithmetic", limit=999_999_999_999)


def test_json_files_need_no_heavy_library(file_of):
    path = file_of({"question": "A?", "answer": "1"})
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from softtokens.tasks import load_problems; "
        f"load_problems({path!r}); "
        "print({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"


def test_a_problem_knows_which_part_of_its_prompt_is_data(file_of):
    path = file_of({"question": "A?", "answer": "1"})
    (problem,) = load_problems(path, template="1 {question} 2 {question}")
    assert problem.literal == ((2, 4), (7, 9))
    assert load_problems(path, special_tokens=True)[0].literal == ()
    (whole,) = load_problems(file_of({"prompt": "A?", "answer": "1"}))
    assert whole.literal == ((0, 2),)


def test_a_chat_is_a_conversation_without_a_prompt_yet(file_of):
    path = file_of({"question": "A?", "answer": "1"})
    data = load_task(path, chat=True, system="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    (problem,) = data.problems
    assert problem.messages == (system, {"role": "user", "content": MATH_MESSAGE.replace("{question}", "A?")})
    assert (problem.prompt, problem.literal, data.template) == ("", (), MATH_MESSAGE)
    (made,) = load_problems("arithmetic", limit=1, chat=True)
    assert made.messages == ({"role": "user", "content": made.columns["question"]},)
