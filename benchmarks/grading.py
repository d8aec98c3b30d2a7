"""How often the math grader errs, on the answers of data sets: python benchmarks/grading.py FOLDER

FOLDER holds data sets as folders of .jsonl or .jsonl.gz files with a column `answer` (the repository ships none). Every
answer is graded in other usual spellings of itself, which have to be right, against near misses (another base, unit or
order of letters, a number ten times as large), which have to be wrong, and against the other answers of its set, which
have to be wrong unless they are equal in value. That is decided without the grader: plain numbers and fractions
as exact fractions, everything else by hand (`EQUAL`). Run it at another commit with PYTHONPATH.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import logging
import random
import re
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from softtokens.rewards import worker
from softtokens.rewards.math import MathGrader
from softtokens.types import Verdict

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")
FRACTION = re.compile(r"(-?)\\[dt]?frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
WORD = re.compile(r"\\text\{([A-Za-z]+)\}")
BASE = re.compile(r"(\d+)_\{?(\d)\}?")
TUPLE = re.compile(r"\(([^()\[\]]+)\)")
ROOT = re.compile(r"(\d+) ?\\sqrt\{(\d+)\}")
# (given, expected) of one set that are equal though their texts differ; decided by hand.
EQUAL = {
    ("1,-2", "-2,1"),  # sets of solutions
    ("-2,1", "1,-2"),
    ("2,3,4", "2,4,3"),
    ("2,4,3", "2,3,4"),
    ("-2,1", "(-2,1)"),  # the brackets of a point omitted
}
SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs per set and kind of answer, drawn at random")
    parser.add_argument("--only", help="sets whose name has this in it")
    parser.add_argument("--show", type=int, default=20, help="how many errors of each kind to print per set")
    arguments = parser.parse_args()
    grader = MathGrader()
    logging.disable(logging.CRITICAL)  # Math-Verify warns that it has no time limit
    print("| set | answers | other spellings | wrong | near misses | right | other answers | right though different |")
    print("|---|---|---|---|---|---|---|---|")
    shown = []
    for name, answers in data_sets(arguments.folder):
        if arguments.only and not re.search(arguments.only, name):
            continue
        started = time.perf_counter()
        spelled = [(other, answer) for answer in answers for other in spellings(answer)]
        false_wrong = [pair for pair in spelled if not right(grader, *pair)]
        near = [(other, answer) for answer in answers for other in near_misses(answer)]
        near_right = [pair for pair in near if right(grader, *pair)]
        pairs = list(pairs_of(answers, arguments.pairs))
        pairs += [(expected, given) for given, expected in pairs if kind(given) != "number"]
        false_right = [pair for pair in pairs if right(grader, *pair) and not equal_by_hand(*pair)]
        print(
            f"| {name} | {len(answers)} | {len(spelled)} | {len(false_wrong)} | {len(near)} | {len(near_right)} "
            f"| {len(pairs)} | {len(false_right)} |",
            flush=True,
        )
        for sort, errors in (("wrong", false_wrong), ("right", near_right + false_right)):
            shown += [f"{name}: {given!r} for {expected!r} is {sort}" for given, expected in errors[: arguments.show]]
        shown.append(f"{name}: {time.perf_counter() - started:.0f} s")
    print("", *shown, sep="\n")


def data_sets(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The different answers of each file; those of multiple choice are no mathematics."""
    for path in sorted(folder.glob("*/*.jsonl*")):
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        if not any("choices" in row for row in rows):
            yield str(path.relative_to(folder)).split(".")[0], list(dict.fromkeys(str(row["answer"]) for row in rows))


def right(grader: MathGrader, given: str, expected: str) -> bool:
    """The verdict of the math grader, in this process and with a limit of time."""
    verdict = grader._verdict_without_worker(given, expected)
    if verdict is not None:
        return verdict is Verdict.RIGHT
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(SECONDS)
    try:
        return worker.is_equal(given, expected)
    except Exception:  # a grading process would call it an error: not right
        return False
    finally:
        signal.alarm(0)


def _out_of_time(*_: object) -> None:
    raise TimeoutError


def spellings(answer: str) -> list[str]:
    """Other ways to write an answer that mean the same."""
    general = [f"${answer}$", rf"\displaystyle {answer}", f" {answer}." if not answer.endswith(".") else f" {answer} "]
    fraction, word, base = FRACTION.fullmatch(answer), WORD.fullmatch(answer), BASE.fullmatch(answer)
    if NUMBER.fullmatch(answer):
        return general + numbers(answer)
    if fraction:
        top, bottom = int(fraction[2] or fraction[3]), int(fraction[4] or fraction[5])
        return general + fractions(-top if fraction[1] else top, bottom)
    if word:
        return [
            word[1],
            word[1].lower(),
            word[1].capitalize(),
            rf"\mathrm{{{word[1]}}}",
            rf"\textbf{{{word[1]}}}",
            *general,
        ]
    if base:
        return [base[1], f"{base[1]}_{base[2]}", f"{base[1]}_{{{base[2]}}}", f"{base[1]} base {base[2]}", *general]
    return general + structures(answer)


def numbers(answer: str) -> list[str]:
    value = Decimal(answer)
    plain = format(value, "f")
    exact = Fraction(value)
    forms = [
        plain,
        f"+{plain}" if value > 0 else plain,
        rf"{plain} \text{{ apples}}",
        f"{plain} dollars",
        f"{plain} km",
    ]
    forms += [rf"\text{{{plain}}}" if value == value.to_integral() else plain, rf"{plain}\%", f"{plain} units"]
    forms += [rf"\${plain}" if value >= 0 else rf"-\${-value:f}", f"{value:,f}", f"{value:,f}".replace(",", r"\,")]
    forms += [f"{value:,f}".replace(",", "{,}"), f"{value:,f}".replace(",", r",\!"), rf"{plain}^\circ", f"x = {plain}"]
    if value == value.to_integral():
        forms += [f"{plain}.0", f"{plain}.00"]
    else:
        forms += [f"{plain}0", rf"\frac{{{exact.numerator}}}{{{exact.denominator}}}"]
    if value:
        mantissa, exponent = f"{value:e}".split("e")
        forms += [f"{mantissa}e{exponent}", f"{mantissa}E{exponent}", rf"{mantissa} \times 10^{{{int(exponent)}}}"]
        forms += [rf"{mantissa}\cdot10^{{{int(exponent)}}}"]
        if value % 10**6 == 0:
            forms.append(f"{int(value) // 10**6} million")
    return forms


def fractions(top: int, bottom: int) -> list[str]:
    value = Fraction(top, bottom)
    sign, size = "-" if value < 0 else "", abs(value)
    top, bottom = size.numerator, size.denominator
    forms = [f"{sign}{top}/{bottom}", rf"{sign}\dfrac{{{top}}}{{{bottom}}}", rf"{sign}\tfrac{{{top}}}{{{bottom}}}"]
    forms += [
        rf"\frac{{{sign}{top}}}{{{bottom}}}",
        rf"{sign}\frac{{{3 * top}}}{{{3 * bottom}}}",
        rf"{sign}\left(\frac{{{top}}}{{{bottom}}}\right)",
    ]
    forms += [
        f"{sign}{top / bottom:.9g}",
        rf"{sign}\frac{{{top}}}{{{bottom}}} \text{{ cm}}",
        f"x = {sign}{top}/{bottom}",
    ]
    rest = bottom
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        decimal = Decimal(top) / Decimal(bottom)
        forms += [f"{sign}{decimal:f}", rf"{sign}{100 * decimal:f}\%", f"{sign}{decimal:e}"]
    whole, part = divmod(top, bottom)
    if whole and part:
        forms += [
            rf"{sign}{whole}\frac{{{part}}}{{{bottom}}}",
            f"{sign}{whole} {part}/{bottom}",
            rf"{sign}{whole} \frac{{{part}}}{{{bottom}}}",
        ]
    return forms


def structures(answer: str) -> list[str]:
    forms = [answer.replace(r"\frac", r"\dfrac")]
    if not re.search(r"[=,(\[]|\\(?:text|mbox|in|cup|pm|begin)", answer):
        forms.append(rf"\left({answer}\right)")
    forms.append(answer.replace(r"\left", "").replace(r"\right", ""))
    forms.append(re.sub(r"(?<=[,])\s*", " ", answer))
    entries = TUPLE.fullmatch(answer)
    if entries:
        forms.append(rf"\left({entries[1]}\right)")
    root = ROOT.fullmatch(answer)
    if root:
        forms += [
            rf"{root[1]} \cdot \sqrt{{{root[2]}}}",
            rf"\sqrt{{{int(root[1]) ** 2 * int(root[2])}}}",
            rf"\sqrt{{{root[2]}}} \cdot {root[1]}",
        ]
    if re.fullmatch(r"-?[\w.]+(?:\s*,\s*-?[\w.]+)+", answer) and not re.fullmatch(
        r"\d{1,3}(?:,\d{3})+", answer
    ):  # a list of solutions is a set
        parts = [part.strip() for part in answer.split(",")]
        forms += [
            ", ".join(reversed(parts)),
            r"\{" + ", ".join(parts) + r"\}",
            ", ".join(parts[:-1]) + " and " + parts[-1],
        ]
    if "pmatrix" in answer:
        forms += [answer.replace("pmatrix", "bmatrix")]
    if re.fullmatch(r".*\^\{?\\circ\}?", answer) and "," not in answer:
        number = re.sub(r"\^\{?\\circ\}?", "", answer)
        forms += [number, f"{number} degrees", rf"{number}\text{{ degrees}}", f"{number}°"]
    unit = re.fullmatch(r"(.*?)\s*\\(?:text|mbox)\s*\{\s*([a-z]+)\s*\}(\^2)?", answer)
    if unit and unit[1]:
        forms += [unit[1], f"{unit[1]} {unit[2]}{unit[3] or ''}", rf"{unit[1]}\,\mathrm{{{unit[2]}}}{unit[3] or ''}"]
    return forms


def near_misses(answer: str) -> list[str]:
    """Other answers that a careless grader takes for this one."""
    word, base, point = WORD.fullmatch(answer), BASE.fullmatch(answer), TUPLE.fullmatch(answer)
    if NUMBER.fullmatch(answer):
        return near_numbers(Decimal(answer)) if Decimal(answer) else []
    if word:
        letters = word[1]
        return [letters[::-1], letters[1:] + letters[0], rf"\text{{not {letters}}}"] if len(letters) > 1 else []
    if base:
        return [f"{base[1]}_{digit}" for digit in "23456789" if digit != base[2]]
    if point:
        parts = [part.strip() for part in point[1].split(",")]
        return [f"({', '.join(reversed(parts))})"] if parts != parts[::-1] else []
    unit = re.fullmatch(r"(.*?)\s*\\(?:text|mbox)\s*\{\s*([a-z]+)\s*\}(\^2)?", answer)
    if unit and unit[1]:
        return [rf"{unit[1]} \text{{ {other}}}" for other in ("km", "hours", "pounds", "dozen")]
    return []


def near_numbers(value: Decimal) -> list[str]:
    plain = format(value, "f")
    forms = [
        f"{plain}x",
        f"{plain}c",
        rf"{plain} \text{{ million}}",
        f"{plain} dozen",
        f"{plain} or more",
        f"not {plain}",
    ]
    forms += [f"{plain}e1", rf"{plain} \times 10^{{-1}}", rf"{plain} \pm 1", f"{value * Decimal('1.00001'):f}"]
    if "." not in plain:
        forms += [
            f"{plain} 1/2",
            rf"{plain}.\overline{{3}}",
            f"{plain}.00001",
            rf"{plain}\,000",
            f"{plain} and {plain}7",
        ]
    return forms


def kind(answer: str) -> str:
    if NUMBER.fullmatch(answer):
        return "number"
    return "text" if WORD.fullmatch(answer) else "mathematics"


def pairs_of(answers: list[str], most: int) -> Iterator[tuple[str, str]]:
    """Pairs of different answers. Numbers with words would only be cheap successes."""
    kinds = collections.defaultdict(list)
    for answer in answers:
        kinds[kind(answer)].append(answer)
    for own in kinds.values():
        pairs = list(itertools.combinations(own, 2))
        yield from pairs if len(pairs) <= most else random.Random(0).sample(pairs, most)


def exact_value(answer: str) -> Fraction | None:
    fraction = FRACTION.fullmatch(answer)
    if fraction:
        value = Fraction(int(fraction[2] or fraction[3]), int(fraction[4] or fraction[5]))
        return -value if fraction[1] else value
    plain = re.sub(r",\\!\s*|,(?=\d{3}(?!\d))|\\\$", "", answer)
    try:
        return Fraction(plain)
    except ValueError:
        return None


def equal_by_hand(given: str, expected: str) -> bool:
    values = exact_value(given), exact_value(expected)
    texts = {re.sub(r"\s|\\left|\\right", "", answer) for answer in (given, expected)}
    return (None not in values and values[0] == values[1]) or len(texts) == 1 or (given, expected) in EQUAL


if __name__ == "__main__":
    main()
