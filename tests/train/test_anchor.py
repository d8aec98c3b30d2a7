"""Hard mode is ordinary RLOO: on the same batch our gradient is that of TRL's `RLOOTrainer`.

TRL's loss is -mean over sequences of min(rho A, clip(rho) A), with rho = exp(log pi - log pi_old) of a whole sequence.
On policy rho is 1, where it is not clipped and d rho = d log pi. So its gradient is that of our loss, -1 / (B G) times
the sum of A log pi: the same, with no factor between them. The losses' values differ (TRL's is -mean A, which is 0).
"""

import dataclasses
import warnings

import pytest
import torch

from softtokens.models.hf import HFPolicy
from softtokens.rollout.record import Kind
from softtokens.rollout.replay import replay
from softtokens.thoughts import Hard
from softtokens.train.objective import TermWeights, policy_terms

pytest.importorskip("trl", reason="the anchor extra is not installed: pip install -e '.[anchor]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # raised by TRL and its imports

GROUP = 4
PROMPTS = ["User: Tom has 4 apples. Assistant:", "User: 3 Tom Assistant:"]
REWARDS = torch.tensor([[100.0, 10.0, 0.0, 10.0], [0.0, 0.0, 10.0, 0.0]])


@pytest.fixture
def batch(make_batch, make_policy):
    """A batch without rows beyond the tokenizer, which we mask and TRL does not."""
    policy = HFPolicy(make_policy("llama-untied").model, make_policy().tokenizer, mask_unused=False)
    return make_batch("hard", policy, group=GROUP)


@pytest.fixture
def trainer(batch, tmp_path):
    """TRL's trainer, given our completions instead of sampling its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        class Anchor(RLOOTrainer):
            def _generate_single_turn(self, prompt_ids, *arguments, **options):
                assert prompt_ids == [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
                return [row[n:used].tolist() for row, n, used in zip(ids, lengths, batch.rollout.lengths, strict=True)]

        ids, lengths = batch.rollout.ids, batch.rollout.prompt_lengths
        config = RLOOConfig(
            output_dir=str(tmp_path),
            beta=0.0,
            num_generations=GROUP,
            num_iterations=1,
            per_device_train_batch_size=len(ids),
            normalize_advantages=False,
            temperature=1.0,
            max_completion_length=64,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
        )
        yield Anchor(
            model=batch.policy.model,
            reward_funcs=lambda reward, **columns: reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": PROMPTS[0]}]),
            processing_class=batch.policy.tokenizer,
        )


def test_advantages_and_gradient_are_those_of_trl_where_every_token_is_an_action(batch, trainer):
    """All of TRL's own path: rewards to advantages to loss. It knows no forced tokens, so here they count as answer."""
    batch, inputs = scored_by_trl(batch, trainer)
    kind = torch.where(batch.rollout.kind == Kind.FORCED, Kind.ANSWER, batch.rollout.kind)
    batch = dataclasses.replace(batch, rollout=dataclasses.replace(batch.rollout, kind=kind))
    assert_same_gradient(batch, trainer.model, trainer, inputs)


def test_gradient_is_that_of_trl_with_forced_text_left_out(batch, trainer):
    batch, inputs = scored_by_trl(batch, trainer)
    rollout, width = batch.rollout, inputs["completion_ids"].shape[1]
    actions = completion_part(rollout.is_thought | rollout.is_answer, rollout, width)
    forced = completion_part(rollout.kind == Kind.FORCED, rollout, width)
    attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)

    def model(attention_mask, **inputs):
        """TRL has one mask for what is an action and for what attention sees; forced tokens are seen all the same."""
        del attention_mask
        return trainer.model(attention_mask=attended, **inputs)

    with torch.no_grad():
        scored = replay(batch.policy, Hard(), rollout)
    old = scored.thought_log_prob.sum(-1) + scored.answer_log_prob.sum(-1)
    assert forced.any(dim=1).all()
    assert torch.equal(inputs["completion_mask"] == 1, actions | forced)
    assert len(set(rollout.prompt_lengths.tolist())) == len(PROMPTS)  # so that TRL pads on the left
    assert_same_gradient(batch, model, trainer, {**inputs, "completion_mask": actions.long(), "old_logps": old})


def test_the_comparison_can_fail(batch, trainer):
    """With advantages divided by their standard deviation, TRL's gradient differs."""
    batch, inputs = scored_by_trl(batch, trainer)
    inputs["advantages"] = inputs["advantages"] / inputs["advantages"].std()
    with pytest.raises(AssertionError):
        assert_same_gradient(batch, trainer.model, trainer, inputs)


def scored_by_trl(batch, trainer):
    """The batch with our advantages, which are TRL's, and TRL's inputs for its loss."""
    rewards = REWARDS.flatten().tolist()
    rows = [{"prompt": PROMPTS[i // GROUP], "reward": reward} for i, reward in enumerate(rewards)]
    inputs = trainer._generate_and_score_completions(rows)
    torch.testing.assert_close(inputs["advantages"], batch.advantages)
    return batch, inputs


def completion_part(marks, rollout, width):
    """Marks [rows, seq] as marks of completion positions [rows, width], each row's completion at the left."""
    rows = [row[n : n + width] for row, n in zip(marks, rollout.prompt_lengths.tolist(), strict=True)]
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


def assert_same_gradient(batch, model, trainer, inputs):
    trainer.model.zero_grad()
    trainer.compute_loss(model, inputs).backward()
    theirs = [p.grad.clone() for p in batch.parameters]
    batch.accumulate(TermWeights(), tokens_per_backward=40)
    terms = policy_terms(replay(batch.policy, Hard(), batch.rollout), batch.advantages, batch.rollout.rows)
    assert all(term.abs() > 0.1 for term in terms)  # both terms contribute
    scale = torch.nn.utils.get_total_norm(theirs)
    assert scale > 1
    for parameter, gradient in zip(batch.parameters, theirs, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=2e-6 * float(scale))
