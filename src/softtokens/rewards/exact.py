"""The grader that compares texts: right when the boxed answer equals the expected one after light normalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from softtokens.rewards.extract import answer_in
from softtokens.types import Verdict

_DECIMAL = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<fraction>[0-9]*))?", re.ASCII
)


def normalize(text: str) -> str:
    """White space, dollar signs and a trailing full stop removed; plain decimals in their shortest form.

    `+5`, `05`, `5.0` and `$5.` become `5`; `1,234` becomes `1234`. Numbers stay text and are compared digit by digit,
    so a number of any length is cheap. Exponents are no plain decimals: `1e9` stays as it is.
    """
    text = " ".join(text.replace(r"\$", " ").replace("$", " ").split()).removesuffix(".").rstrip()
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match["whole"] or match["fraction"]):
        return text
    whole = match["whole"].replace(",", "").lstrip("0") or "0"
    fraction = (match["fraction"] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if match["sign"] == "-" and value != "0" else value


class ExactGrader:
    """Right only when the normalised texts are equal: enough where every answer is a plain number or a word."""

    def grade(self, completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [_verdict(completion, answer) for completion, answer in zip(completions, answers, strict=True)]

    def groups(self, answers: Sequence[str]) -> list[int]:
        first: dict[str, int] = {}
        return [first.setdefault(normalize(answer), i) for i, answer in enumerate(answers)]

    def close(self) -> None:
        """Nothing to close: this grader holds no resources."""


def _verdict(completion: str, answer: str) -> Verdict:
    given = answer_in(completion)
    if given is None:
        return Verdict.NO_ANSWER
    return Verdict.RIGHT if normalize(given) == normalize(answer) else Verdict.WRONG
