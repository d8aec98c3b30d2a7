import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rewards.extract import answer_in, boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"The final answer is: \boxed{42} because", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2}", "1"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\}", None),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\boxed{1 \boxed{2}", None),
        (r"\boxed{" + "\\", None),
        (r"\boxed{}", ""),
        ("\\boxed{a\nb\0\ud800}", "a\nb\0\ud800"),
        (r"\boxed 5", None),
        ("42", None),
        ("", None),
    ],
)
def test_boxed(text, content):
    assert boxed(text) == content


def test_an_empty_box_is_no_answer():
    assert answer_in("\\boxed{ \n}") is None
    assert answer_in(r"\boxed{ 0 }") == " 0 "


def balanced():
    plain = st.text(st.characters(exclude_characters="\\{}"), max_size=5)
    escaped = st.sampled_from([r"\{", r"\}", "\\\\", r"\frac"])
    return st.recursive(
        plain | escaped, lambda inner: st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}")
    )


@settings(deadline=None)
@given(content=balanced(), after=st.text(max_size=20))
def test_balanced_content_comes_back_whole(content, after):
    assert boxed(r"so \boxed{" + content + "}" + after) == content


@settings(deadline=None)
@given(st.text(st.sampled_from("\\{}boxed a"), max_size=60))
def test_what_is_found_is_the_beginning_of_the_first_box(text):
    content = boxed(text)
    if content is not None:
        assert text.partition(r"\boxed{")[2].startswith(content + "}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["{", "}", "\\", r"\boxed{", "{}", r"\{", "a"])
def test_a_megabyte_of_anything_is_no_problem(unit):
    text = r"\boxed{" + unit * (1_000_000 // len(unit))
    content = boxed(text)
    assert content == ("" if unit == "}" else None)
    assert boxed(text + "}" * 1_000_001) is not None or unit == "\\"
