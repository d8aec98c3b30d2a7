# ruff: noqa: E501 (lists of strange texts read best in long lines)
"""Writes hostile.jsonl: answers that no grader may find right, hang on or fall over. python tests/rewards/hostile.py

One {"expected", "text"} per line; text is what stands in the completion, as it is or as [piece, times].
"""

from __future__ import annotations

import json
import random
from pathlib import Path

FILE = Path(__file__).with_name("hostile.jsonl")
EXPECTED = ["3", "-7", "0", r"\frac{1}{2}", "0.25", "x+1", r"\sqrt{2}", "(1,2)", "12345", r"\pi", "50", "2^{10}"]
WRONG_FORMS = [  # contain the right answer but claim more, or something else
    "{} or 4096", "4096 or {}", "x={}, x=4096", "{}, 4096", "{} and also 4096", r"{} \text{{ or }} 4096", "not {}", r"\neq {}",
    "{}+4096", "4096-({})+1", "({})^{{97}}+5", r"\frac{{{}}}{{97}}+11", r"\{{ {}, 4096 \}}", "[{}, 4096]", "({}, 4096]",
    "> {}", "< {}", r"\approx {} \pm 4096", r"\sqrt{{({})+4096}}", "{}e41", "{}\n4096", "answer: {} maybe 4096",
]  # fmt: skip
NESTS = ["(", "[", "{", r"\frac{", r"\sqrt{", r"\left(", r"\boxed{", "^{", "_{", r"\begin{pmatrix}", "1+(", r"\log("]
BOMBS = [
    "9**9**9", "9^{9^{9^9}}", "1e999999", "10^{10^{10}}", "(10^9)!", "((9!)!)!", r"\binom{10^9}{10^8}", r"\sum_{i=1}^{10^{12}} i^i",
    r"\int_0^{\infty} e^{e^{e^x}} dx", r"\lim_{x\to 0} \frac{\sin(x^{99})}{x^{99}} x^{-99}", r"\prod_{k=1}^{10^9} k", "2^{2^{2^{2^{2^2}}}}",
    r"\frac{d^{99}}{dx^{99}} e^{x^{99}}", "x^{10^6}+1", r"(a+b+c+d+e+f)^{200}", r"\sqrt[10^9]{7}", r"\zeta(10^{-9})", "0.1^{-99999}",
    r"\sin(10^{10^{5}})", "1/0", "0/0", r"\infty", r"\infty-\infty", "NaN", "inf", "nan", "-0.0000000001", "1" * 400, "0." + "3" * 400,
]  # fmt: skip
CODE = [
    '__import__("os").system("exit 1")', "exec('raise SystemExit')", "exit()", "().__class__.__bases__[0].__subclasses__()", "lambda: 0",
    "{% raw %}{{7*7}}", "$(reboot)", "`id`", "'; DROP TABLE answers; --", "<script>alert(1)</script>", "%s%n%x", "{0.__class__}", "\\x00\\xff",
    "sympify('9**9**9')", "S.Infinity", "Integral(exp(exp(x)), (x, 0, oo))", "Matrix([[1]*999]*999)", "eval(input())", "import sys",
]  # fmt: skip
LETTERS = [
    "３", "٣", "३", "Ⅲ", "³", "３．０", "ⅹ+1", "х+1", "½", "¼", "√2", "π", "\u202e3\u202c1", "\u20663\u20691", "3\u200b1", "\ufeff31", "3\u0338",
    "\x00", "3\x001", "\ud800", "3\udfff", "\U0001f600", "\u0301" * 50, "\t\n\r", " ", "", "\\", "$", "$$", "{}", "}{", "\\}", "%", "\\%", "~", "^", "_",
    "\\text{}", "\\text{three}", "three", "III", "0x3", "0b11", "3rd", "3;4", "3:4", "3|4", "3 4", "3_4", "3'4", "3°", "3 kg 4", "(3)(4)",
]  # fmt: skip


def answers(chance: random.Random) -> list[tuple[str, object]]:
    """(expected, text)"""
    cases: list[tuple[str, object]] = []
    for expected in EXPECTED:
        forms = [form for form in WRONG_FORMS if (expected, form) != ("0", "{}e41")]  # which is 0
        cases += [(expected, boxed(form.format(expected))) for form in forms]
    for odd in BOMBS + CODE + LETTERS:
        cases += [(expected, boxed(odd)) for expected in ("12345", "x+1")]
    for nest in NESTS:
        for times in (10, 60, 1000, 100_000):
            cases.append(("3", [nest, times]))
            cases.append(("3", ["\\boxed{" + nest, times]))
    for size in (10_000, 1_000_000):
        cases += [
            ("3", [piece, size // len(piece)]) for piece in ("9", "x+", "\\boxed{1}", "\\frac12 ", "a_", "\\\\", "\n")
        ]
    pieces = [
        *NESTS,
        *BOMBS[:12],
        *CODE[:6],
        *LETTERS[:24],
        "}",
        ")",
        "]",
        r"\right)",
        "=",
        "+",
        ",",
        "&",
        r"\\",
        "7",
        "x",
        r"\cdot",
    ]
    while len(cases) < 1100:
        text = "".join(chance.choices(pieces, k=chance.randint(1, 30)))
        cases.append(
            (chance.choice(["12345", r"\pi^{17}", "x^{19}-x+1"]), chance.choice([boxed(text), text, r"\boxed{" + text]))
        )
    return cases


def boxed(text: str) -> str:
    return rf"The answer is \boxed{{{text}}}."


if __name__ == "__main__":
    rows = [{"expected": expected, "text": text} for expected, text in answers(random.Random(0))]
    FILE.write_text("".join(json.dumps(row) + "\n" for row in rows))
