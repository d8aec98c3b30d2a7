import numpy as np
import pytest
import torch

from softtokens.evaluate.nll import score_choices
from softtokens.models.hf import HFPolicy
from softtokens.types import ChoiceItem, UserError

ITEMS = [
    ChoiceItem(0, "User: Tom has", (" 4 apples", " 12", " so. The final answer"), 0),
    ChoiceItem(1, "User: 3", (" apples.", " answer is"), 1),
    ChoiceItem(2, "The final answer is:", (" 3", " 12", " 4", " Tom has 12 apples. so. User"), 2),
]


@pytest.fixture(scope="module")
def plain_policy(make_policy, tokenizer):
    """A policy with the logits of transformers, including rows beyond the tokenizer."""
    return HFPolicy(make_policy("llama-untied").model, tokenizer, mask_unused=False)


def log_probs(policy, item):
    """Log-probabilities of each choice's tokens after the prompt: one text at a time, with transformers, in float64."""
    result = []
    for choice in item.choices:
        prompt = policy.tokenizer.encode(item.prompt)
        ids = policy.tokenizer.encode(item.prompt + choice)
        assert ids[: len(prompt)] == prompt
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([ids])).logits[0].double()
        log_p = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        result.append(log_p[len(prompt) - 1 :].numpy())
    return result


def test_agree_with_transformers(plain_policy):
    scores = score_choices(plain_policy, ITEMS)
    for i, item in enumerate(ITEMS):
        per_choice = log_probs(plain_policy, item)
        totals = [float(log_p.sum()) for log_p in per_choice]
        characters = [len(choice.strip()) for choice in item.choices]
        assert scores.correct[i] == (np.argmax(totals) == item.answer)
        assert scores.correct_normalized[i] == (np.argmax(np.divide(totals, characters)) == item.answer)
        assert scores.nll_per_token[i] == pytest.approx(-per_choice[item.answer].mean(), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_rows_per_batch_do_not_matter(policy, rows):
    expected, scores = score_choices(policy, ITEMS), score_choices(policy, ITEMS, rows_per_batch=rows)
    np.testing.assert_array_equal(scores.correct, expected.correct)
    np.testing.assert_allclose(scores.nll_per_token, expected.nll_per_token, rtol=1e-5)


def test_length_counts_only_when_normalized(plain_policy):
    """A long choice has less probability than its own beginning, but may have more per character."""
    item = ChoiceItem(0, "User: Tom has", (" 4", " 4 apples 12 so. Tom"), 1)
    scores = score_choices(plain_policy, [item])
    totals = [log_p.sum() for log_p in log_probs(plain_policy, item)]
    assert totals[0] > totals[1]
    assert not scores.correct[0]
    assert scores.correct_normalized[0] == (totals[1] / len("4 apples 12 so. Tom") > totals[0] / len("4"))


def test_an_item_beyond_the_context_is_named(policy):
    item = ChoiceItem(7, "apples " * 300, (" 3", " 4"), 0)
    with pytest.raises(UserError, match=r"multiple-choice item 7 has .* tokens, but the model's context is 256"):
        score_choices(policy, [ITEMS[0], item])
