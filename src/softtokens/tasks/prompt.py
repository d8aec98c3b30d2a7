"""Turns a question into the full text a model reads."""

from __future__ import annotations

from softtokens.types import UserError

PLACE = "{question}"

# Plain text without a chat template. The model is told the very phrase that ends its thoughts.
MATH_TEMPLATE = (
    "Solve the problem below. Reason step by step, and close your reply with the words "
    '"The final answer is: " followed by the result in \\boxed{}.\n\n'
    "User: {question}\nAssistant:"
)
CHOICE_TEMPLATE = "Question: {question}\nAnswer:"


def check_template(template: str) -> str:
    if PLACE not in template:
        raise UserError(f"template is {template!r}; it has to say where the question goes: {PLACE}.")
    return template


def fill(template: str, question: str) -> str:
    """Not `str.format`: braces are ordinary characters in questions and in \\boxed{}."""
    return template.replace(PLACE, question)
