from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rewards.exact import ExactGrader, normalize
from softtokens.types import Verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", "5"),
        (" +5. ", "5"),
        ("05", "5"),
        ("5.0", "5"),
        ("5.", "5"),
        (".50", "0.5"),
        ("-0.00", "0"),
        ("-07.10", "-7.1"),
        ("$1,234,567.80", "1234567.8"),
        (r"\$18", "18"),
        ("12,34", "12,34"),
        ("0,123", "0,123"),
        ("1e3", "1e3"),
        ("1e999999999", "1e999999999"),
        ("٣", "٣"),
        ("the  \n answer", "the answer"),
        (".", ""),
        ("+", "+"),
        ("", ""),
        ("\0\ud800", "\0\ud800"),
    ],
)
def test_normal_form(text, expected):
    assert normalize(text) == expected


# Python's own formatting rounds a decimal to 28 digits.
DECIMALS = st.decimals(-(10**20), 10**20, places=3)


@settings(deadline=None)
@given(DECIMALS, DECIMALS | st.decimals(-99, 99, places=3))
def test_plain_decimals_compare_as_numbers(a, b):
    assert (normalize(f"{a:f}") == normalize(f"{b:f}")) == (a == b)
    assert Decimal(normalize(f"{a:,f}")) == a
    assert normalize(f"+{abs(a):f}0") == normalize(f"00{abs(a):f}")


@settings(deadline=None)
@given(st.text(max_size=30) | st.text("0123456789.,+-$ ", max_size=12))
def test_what_is_normal_means_the_same_number_or_text(text):
    assert normalize(f"  {text}\n") == normalize(text)
    kept = [c for c in text if c not in "$\\., 0+-" and not c.isspace()]
    assert [c for c in normalize(text) if c not in "$\\., 0+-"] == kept


def test_verdicts():
    completions = [r"\boxed{ 1,000.0 }", r"\boxed{7} 8", r"\boxed{8", "8", r"\boxed{}", r"\boxed{North.}"]
    verdicts = ExactGrader().grade(completions, ["1000", "8", "8", "8", "8", "North"])
    right, wrong, none = Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER
    assert verdicts == [right, wrong, none, none, none, right]


def test_as_many_answers_as_completions():
    with pytest.raises(ValueError):
        ExactGrader().grade([r"\boxed{1}"], [])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["9", "1,", "0", " ", "$", ".", "-", "1,000", "\\"])
def test_a_megabyte_of_anything_is_no_problem(unit):
    text = "1" + unit * (1_000_000 // len(unit))
    assert ExactGrader().grade([r"\boxed{" + text + " x}"], [text]) == [Verdict.WRONG]
    assert ExactGrader().grade([r"\boxed{ " + text + " }"], [text]) == [Verdict.RIGHT]
