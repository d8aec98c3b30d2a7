import pytest
import torch

from softtokens.rollout.record import Kind
from softtokens.rollout.replay import replay
from softtokens.train.loss import policy_terms


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_terms_agree_with_a_loop_over_rollouts_and_steps(make_batch, mode):
    batch = make_batch(mode)
    with torch.no_grad():
        scored = replay(batch.policy, batch.thought, batch.rollout)
    thought, answer = 0.0, 0.0
    for row in range(batch.rollout.rows):
        advantage = float(batch.advantages[row])
        for step in range(int(batch.rollout.thought_lengths[row])):
            thought -= advantage * float(scored.thought_surrogate[row, step]) / batch.rollout.rows
        for step in range(int(batch.rollout.answer_lengths[row])):
            answer -= advantage * float(scored.answer_log_prob[row, step]) / batch.rollout.rows
    terms = policy_terms(scored, batch.advantages, batch.rollout.rows)
    torch.testing.assert_close(torch.stack(terms), torch.tensor([thought, answer]), rtol=1e-4, atol=1e-3)


def test_forced_text_is_no_action(make_batch):
    """Every position is counted once: as many terms as thoughts and answers, and none for what was forced."""
    batch = make_batch("hard")
    scored = replay(batch.policy, batch.thought, batch.rollout)
    assert (batch.rollout.kind == Kind.FORCED).any()
    assert int(scored.is_thought_step.sum()) == int((batch.rollout.kind == Kind.THOUGHT).sum())
    assert int(scored.is_answer_step.sum()) == int((batch.rollout.kind == Kind.ANSWER).sum())
    logits = batch.policy.model(batch.rollout.ids).logits[:, :-1].float()
    logits[..., len(batch.policy.tokenizer) :] = float("-inf")
    log_prob = logits.log_softmax(-1).gather(-1, batch.rollout.ids[:, 1:, None])[..., 0]
    actions = (batch.rollout.is_thought | batch.rollout.is_answer)[:, 1:]
    expected = -(batch.advantages * (log_prob * actions).sum(-1)).mean()
    thought, answer = policy_terms(scored, batch.advantages, batch.rollout.rows)
    torch.testing.assert_close(thought + answer, expected, rtol=1e-4, atol=1e-4)
