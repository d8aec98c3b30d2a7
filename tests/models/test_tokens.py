"""Real-world tokenizers: with tokens around every text, with holes between ids, with added tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from conftest import build_model
from softtokens.evaluate.nll import score_choices
from softtokens.models.hf import HFPolicy
from softtokens.ops import streamed
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.batches import encode_prompts
from softtokens.rollout.spikes import unit_of
from softtokens.rollout.stopping import token_texts
from softtokens.thoughts import Gaussian, Hard, LogitGaussian
from softtokens.types import ChoiceItem, Problem, UserError

HOLE = 20  # ids between the last ordinary token and the one behind the hole


@pytest.fixture
def own_tokenizer(tokenizer):
    return copy.deepcopy(tokenizer)


def put_around(tokenizer, template: str) -> None:
    from tokenizers.processors import TemplateProcessing

    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<pad>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)


def ids_of(policy, text):
    (ids,) = encode_prompts(policy, [Problem(0, text, "")])
    return ids


@pytest.mark.parametrize(
    ("template", "front"), [("$A <eos>", []), ("<pad> $A", [0]), ("<pad> <eos> $A <eos>", [0, 1]), ("$A", [])]
)
def test_a_prompt_begins_once_and_does_not_end(own_tokenizer, template, front):
    plain = own_tokenizer.encode("Tom has 4")
    put_around(own_tokenizer, template)
    policy = HFPolicy(build_model("llama", 310), own_tokenizer)
    assert ids_of(policy, "Tom has 4") == front + plain
    begun = own_tokenizer.decode(front) + "Tom has 4"
    assert ids_of(policy, begun) == front + plain


def test_a_token_without_a_row_is_named(own_tokenizer):
    own_tokenizer.add_tokens(["[NEW]"], special_tokens=True)
    policy = HFPolicy(build_model("llama", len(own_tokenizer) - 1), own_tokenizer)
    assert ids_of(policy, "Tom")
    with pytest.raises(UserError, match=r"the prompt of problem 0 has the token '\[NEW\]' \(id \d+\), but the model's"):
        ids_of(policy, "Tom [NEW]")
    with pytest.raises(UserError, match=r"multiple-choice item 3 has the token '\[NEW\]'"):
        score_choices(policy, [ChoiceItem(3, "Tom", (" has", " [NEW]"), 0)])


@pytest.fixture(params=["llama", "gemma3"])
def holed(request, tokenizer):
    """A policy whose tokenizer has its last token behind a hole. Gemma caps its logits."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    last = len(tokenizer) - 1 + HOLE
    raw["model"]["vocab"]["<end>"] = last
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": last, "content": "<end>"})
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)), pad_token="<pad>", eos_token="<end>"
    )
    assert own.eos_token_id == last and len(own) < last
    changes = {"final_logit_softcapping": 5.0} if request.param == "gemma3" else {}
    return HFPolicy(build_model(request.param, last + 8, **changes), own)


def test_only_ids_that_no_token_owns_are_masked(holed):
    owned = sorted(holed.tokenizer.get_vocab().values())
    assert holed.vocabulary.tokens.tolist() == owned
    hidden = torch.randn(3, 32)
    logits = holed.vocabulary.logits(hidden)
    masked = torch.nonzero(logits[0] == float("-inf"))[:, 0].tolist()
    assert masked == sorted(set(range(logits.shape[1])) - set(owned))
    assert token_texts(holed.tokenizer, logits.shape[1])[holed.tokenizer.eos_token_id] != ""


@pytest.mark.parametrize("thought", [Hard(), Gaussian(0.5, 0.1), LogitGaussian(0.5, 1.0), LogitGaussian(0.5, 1.0, 5)])
def test_what_is_drawn_and_scored_knows_of_the_holes(holed, thought):
    vocabulary = holed.vocabulary
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    keys = Keys(0, torch.arange(5), torch.arange(5)).at(0, Stream.THOUGHT)
    drawn = thought.at(hidden, vocabulary).draw(keys)
    assert thought.fed(drawn, vocabulary).isfinite().all()
    assert set(drawn.token.tolist()) <= set(vocabulary.tokens.tolist())
    hidden.requires_grad_()
    scores = thought.score(hidden, vocabulary, drawn)
    torch.testing.assert_close(scores.surrogate.detach(), drawn.log_prob, rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(scores.surrogate.sum(), hidden)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_streamed_scores_are_those_of_whole_logits(holed):
    vocabulary = holed.vocabulary
    hidden = torch.randn(7, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = vocabulary.tokens[:7]
    ours, _ = streamed.token_log_prob(vocabulary, hidden, tokens, 0.7, chunk_rows=2)
    whole = torch.log_softmax(vocabulary.logits(hidden) / 0.7, dim=-1)
    theirs = whole.gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(log_prob.sum(), (hidden, vocabulary.head))[0] for log_prob in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_the_unit_of_scores_is_that_of_rows_with_a_token(holed):
    vocabulary = holed.vocabulary
    lengths = vocabulary.head.detach()[vocabulary.tokens].square().sum(-1)
    assert unit_of(vocabulary) == pytest.approx(float(lengths.mean().sqrt()), rel=1e-5)


def test_the_unit_of_scores_is_measured_in_pieces(monkeypatch):
    """No copy of the whole head in float32."""
    sizes = []
    square = torch.Tensor.square
    monkeypatch.setattr(torch.Tensor, "square", lambda x: sizes.append(x.numel()) or square(x))
    head = torch.randn(10_000, 4, dtype=torch.bfloat16)
    unit = unit_of(Vocabulary(head, head, size=9_000))
    assert sum(sizes) == head.numel() and max(sizes) < head.numel() / 2
    monkeypatch.undo()
    assert unit == pytest.approx(float(head[:9_000].float().square().sum(-1).mean().sqrt()), rel=1e-6)


def test_an_end_token_that_nobody_owns_is_warned_of(make_policy, caplog):
    """The token is masked, so no answer would ever end."""
    policy = make_policy("llama")
    policy.model.generation_config.eos_token_id = len(policy.tokenizer) + 1  # a padding row of the table
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.eos_token = None
    HFPolicy(policy.model, tokenizer)
    assert "names an end-of-sequence token that the tokenizer has; every answer runs to its limit" in caplog.text
