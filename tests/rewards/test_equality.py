# ruff: noqa: E501 (lists of answers read best in long lines)
# fmt: off
"""What the math grader considers equal. Rows are (given, expected); the grader runs in this process."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rewards.equality import is_equal, value_of
from softtokens.rewards.reading import read
from softtokens.rewards.units import may_be_same, unit_of
from softtokens.rewards.words import is_product

pytestmark = pytest.mark.filterwarnings("ignore")


def wrongly_graded(pairs, *, right):
    return [pair for pair in pairs if is_equal(*pair) is not right]


def test_a_base_counts_unless_one_side_leaves_it_out():
    right = [("31_7", "31_{7}"), ("31", "31_7"), ("31_7", "31"), (r"31_{\text{seven}}", "31_7"), ("31 base 7", "31_7")]
    wrong = [("31_7", "31_8"), ("31_{10}", "31_8"), ("32_7", "31_7"), ("(31_7, 2)", "(31_8, 2)")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_words_and_sequences_are_equal_letter_by_letter():
    right = [("Tuesday", r"\text{Tuesday}"), ("no solution", r"\text{No solution}"), (r"\mathrm{odd}", "odd"), ("BCA", "BCA")]
    wrong = [("BCA", "ABC"), ("listen", "silent"), ("dog", "god"), ("TTH", "HTT"), ("no", "on"), ("red, blue", "red, green")]
    wrong += [("May 3", "June 3"), ("1 red, 2 blue", "1 blue, 2 red"), ("even", "odd"), ("AB", "BA")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_products_of_variables_commute():
    pairs = [("ba", "ab"), ("zyx", "xyz"), ("cab", "abc"), ("2nm", "2mn"), (r"b \cdot a", "ab"), ("x e^y", "e^y x"), ("3RC", "3CR")]
    assert wrongly_graded(pairs, right=True) == []
    assert [word for word in ("ab", "xyz", "abc", "n") if not is_product(word)] == []
    assert [word for word in ("no", "cat", "tea", "east", "AB", "bcd e") if is_product(word)] == []


def test_angles_and_segments_are_named_from_either_end_and_triangles_from_any_corner():
    right = [(r"\angle RQP", r"\angle PQR"), (r"\overline{QP}", r"\overline{PQ}"), (r"\triangle QRP", r"\triangle PQR")]
    wrong = [(r"\angle QPR", r"\angle PQR"), (r"\overline{PR}", r"\overline{PQ}"), (r"\triangle PQS", r"\triangle PQR")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_the_case_of_a_variable_counts():
    assert is_equal("2R", "2R") and not is_equal("2R", "2r") and is_equal("A", "a")


def test_two_different_units_are_wrong_and_one_may_be_left_out():
    right = [("9 m", "9"), ("9", r"9 \text{ kg}"), ("9 books", "9"), ("9 kilometers", "9 km"), (r"9\,\mathrm{km}", r"9 \text{ kilometres}")]
    right += [("9 sq ft", r"9 \text{ ft}^2"), ("9 square feet", r"9\text{ feet}^2"), ("9 m/s", "9 meters per second"), ("9 mph", "9 miles per hour")]
    right += [("9 old books", "9 books"), ("9 cm, 4 cm", "9, 4"), ("9 units", "9 cm"), ("9 PM", r"9:00 \text{ p.m.}"), ("9°", "9 degrees")]
    right += [("9 m", r"9\text{ m}"), ("9th", "9"), (r"\text{9 books}", "9"), (r"\frac{9}{2}\text{ cups}", "4.5"), ("9°C", "9")]
    wrong = [("9 m", r"9 \text{ cm}"), ("9 cm", "9 mm"), ("9 ft", r"9 \text{ ft}^2"), ("9 m/s", "9 km/h"), ("9 a.m.", "9 p.m."), ("9 books", "9 pens")]
    wrong += [("9 seconds", r"9 \text{ days}"), ("9°C", "9°F"), ("$9", "9 cents"), ("€9", "$9"), (r"9 \pmod 4", r"9 \pmod 5")]
    wrong += [("9 or more", "9"), ("9 squared", "9"), ("9 not", "9")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_a_variable_behind_a_number_is_no_unit():
    wrong = [("7m", "7"), ("7", "7m"), ("7", "7 m"), ("7c", "7"), ("7t", "7"), ("7", "7h"), ("7 n", "7"), ("7x", "7")]
    assert wrongly_graded(wrong, right=False) == []


def test_million_and_dozen_are_part_of_the_number():
    right = [("3 million", "3000000"), (r"2.5 \text{ million dollars}", "2500000"), ("$2.5 billion", "2,500,000,000"), ("4 dozen", "48")]
    wrong = [("3 million", "3"), ("3", r"3 \text{ thousand}"), ("3 million", "3 billion"), ("4 dozen eggs", "4")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_numbers_in_their_usual_spellings():
    right = [("3 1/4", "3.25"), ("-3 1/4", r"-\frac{13}{4}"), ("7.5e2", "750"), ("7.5E-04", r"7.5 \times 10^{-4}"), ("0.00002", "2e-05")]
    right += [("45%", "0.45"), (r"45\%", "45"), ("12.5 percent", r"\frac{1}{8}"), (r"12.5\%", "12.5"), ("12.5%", r"12.5\%")]
    right += [("40 dollars", "40"), ("£40", "40"), (r"-\$40", "-40"), ("Rs. 40", "40"), (r"4\,000\,000", "4000000"), ("4{,}000", "4000"), ("4 000", "4000")]
    right += [(r"0.1\overline{6}", r"\frac{1}{6}"), (r"\mathrm{e}^{3}", "e^3"), ("3 to 4", "3:4"), (r"\text{40}", "40"), ("$40$", "40")]
    wrong = [("3 1/4", "3"), ("3 1/4", "31/4"), ("7.5e2", "7.5"), ("e-4", "1e-04"), ("45%", "4500"), ("0.45", "45"), (r"4\,000", "0"), ("3 to 4", "4 to 3")]
    wrong += [(r"0.\overline{6}", "0.6"), ("4 000", "4"), ("1e400", "1e-400")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_values_are_compared_relative_to_their_size():
    right = [(r"3^{-70}", r"\frac{1}{3^{70}}"), ("0.142857", "1/7"), ("0.666667", "0.6666666667"), (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}")]
    right += [("0.7", "0.7000000000000001"), ("45678901.3333333", "45678901.333333336"), ("1.732051", r"\sqrt{3}")]
    wrong = [("3^{-70}", "3^{-71}"), ("3^{-70}", "0"), ("0.00000003", "0.00000004"), (r"\frac{1}{30!}", r"\frac{1}{31!}"), ("0.00033", "1/3000")]
    wrong += [("(0.00000003, 2)", "(0.00000004, 2)"), (r"\{10^{-30}, 2\}", r"\{10^{-31}, 2\}"), ("10^{-30}x", "10^{-31}x"), ("x=10^{-30}", "x=10^{-31}")]
    wrong += [(r"\begin{pmatrix}10^{-30}\\2\end{pmatrix}", r"\begin{pmatrix}10^{-31}\\2\end{pmatrix}"), ("x > 10^{-30}", "x > 10^{-31}")]
    wrong += [("y=10^{-30}x", "y=10^{-31}x"), ("0 = x - 1", "0 = x - 2")]
    wrong += [("0.14", "1/7"), ("0.142857", "0.142858"), ("4567890.1", "4567890.2"), ("4567890", "4567890.2"), ("9007199254740993", "9007199254740992.0")]
    assert wrongly_graded(right, right=True) == wrongly_graded(wrong, right=False) == []


def test_any_kind_of_mathematics_can_be_compared_with_any_other():
    kinds = ["3", "x", "x+1", "x=3", "x>3", "(3, 4)", "[3, 4)", "3, 4", r"\{3\}", r"\begin{pmatrix}3\\4\end{pmatrix}", r"\text{east}"]
    kinds += [r"(-\infty, 3) \cup (4, 5)", r"x \in [3, 4]", "f(x)=3", r"\infty", "1/0", r"\frac{", r"\emptyset", "f(x)", "i", "1 < x < 2"]
    equal = {("3", "x=3"), ("x=3", "3"), ("3", r"\{3\}"), (r"\{3\}", "3"), ("3, 4", "(3, 4)"), ("f(x)=3", "3"), ("3", "f(x)=3"), ("x=3", r"\{3\}")}
    right = {(one, other) for one in kinds for other in kinds if one != other and is_equal(one, other)}
    assert right - equal - {(r"\{3\}", "x=3"), ("f(x)=3", r"\{3\}"), (r"\{3\}", "f(x)=3")} == set()


def test_brackets_may_be_left_out_but_not_added():
    assert is_equal("4, 5", "(4, 5)") and is_equal(r"\{4,5\}", "5, 4") and is_equal(r"4 \le x \le 5", r"x \in [4, 5]")
    wrong = [("(4, 5)", "4, 5"), ("5, 4", "(4, 5)"), ("[4, 5]", "(4, 5)"), ("(4, 6, 5)", "(4, 5, 6)"), ("4, 5", "4, 5, 5, 6")]
    assert wrongly_graded(wrong, right=False) == []


FRACTIONS = st.fractions(-(10**6), 10**6, max_denominator=999)


@settings(max_examples=150, deadline=None)
@given(FRACTIONS, FRACTIONS | st.fractions(-2, 2, max_denominator=30))
def test_fractions_are_equal_exactly_when_their_values_are(one, other):
    forms = (rf"\frac{{{one.numerator}}}{{{one.denominator}}}", f"{one.numerator}/{one.denominator}")
    for form in forms:
        assert is_equal(form, rf"\frac{{{other.numerator * 3}}}{{{other.denominator * 3}}}") == (one == other)
        assert is_equal(form, rf"\frac{{{one.numerator * 7}}}{{{one.denominator * 7}}}")


@settings(max_examples=150, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-30, 30), st.integers(-(10**9), 10**9), st.integers(-30, 30))
def test_decimals_are_equal_exactly_when_their_values_are(digits, exponent, other_digits, other_exponent):
    one, other = (Fraction(d) * Fraction(10) ** e for d, e in ((digits, exponent), (other_digits, other_exponent)))
    texts = (f"{digits}e{exponent}", rf"{digits} \times 10^{{{exponent}}}")
    # closer than rounding to six digits, which has tests of its own
    apart = one != other and abs(one - other) > Fraction(1, 10**5) * max(abs(one), abs(other))
    for text in texts:
        assert is_equal(text, f"{digits * 10}e{exponent - 1}")
        if apart:
            assert not is_equal(text, f"{other_digits}e{other_exponent}")


@settings(max_examples=100, deadline=None)
@given(FRACTIONS)
def test_equal_answers_have_values_that_are_near(value):
    forms = [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{float(value):.9f}"]
    values = [value_of(form) for form in forms]
    assert all(abs(v - float(value)) <= 1e-5 * max(abs(float(value)), 1e-3) for v in values)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789.,/ eExmkckABC\\{}_^()%$°textpid", max_size=30))
def test_any_text_is_read_and_equals_itself(text):
    reading = read(text)
    assert reading.may_equal(reading) and read(text) == reading
    assert re.sub(r"\s", "", reading.text) or not re.sub(r"[\s\\${}.,/;:!~^()°%]|text|quad", "", text) or reading.unit


def test_units_in_one_spelling():
    assert unit_of("square feet") == unit_of("sq. ft.") == unit_of("ft^2") == unit_of("feet squared") == {"ft^2"}
    assert unit_of("km per hour") == unit_of("km/h") == unit_of("kmh") == {"km", "h^-1"} and unit_of("units") == frozenset()
    assert unit_of("12 in") == {"in"} and unit_of("dollars in total") == {"dollar"}
    assert may_be_same(unit_of("red balls"), unit_of("balls")) and not may_be_same(unit_of("balls"), unit_of("bats"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["9", "1,", " ", "\\text{", "a ", "\\,000", "e5", "^{", "_{", "1 1/", "\\text{ m}", "0.\\overline{3}"])
def test_reading_takes_no_longer_than_its_text(piece):
    read(piece * (2000 // len(piece)))
    read("5 " + piece * (2000 // len(piece)))
