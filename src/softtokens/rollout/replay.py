"""Score stored rollouts again: one teacher-forced forward pass, with gradient.

Gradients flow through the log-probabilities of each step and, as in any language model, through the embeddings of
tokens. What thoughts feed is up to their family (`Thought.fed`); stored vectors are data.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from softtokens.models.policy import Policy
from softtokens.models.prefix import PromptStates
from softtokens.ops import streamed
from softtokens.ops.denormals import flushing_denormals
from softtokens.ops.random import Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.record import Kind, Rollout
from softtokens.rollout.spikes import Spikes
from softtokens.thoughts import Draw, Thought


@dataclasses.dataclass(frozen=True)
class Replay:
    """Stored rollouts scored under the current parameters, one value per step. Only thought_surrogate and
    answer_log_prob have gradients.

    thought_surrogate: its gradient is the estimator of the gradient of the thoughts' log-probability; its value is
    meaningless. thought_log_prob: nats, as `Scores.log_prob`; ratios and divergences can be built on it.
    answer_log_prob: nats. All hold 0 beyond a row's thoughts or answer; the masks mark the entries that are steps.
    """

    thought_surrogate: Float[Tensor, "rows steps"]
    answer_log_prob: Float[Tensor, "rows answer"]
    thought_log_prob: Float[Tensor, "rows steps"]
    is_thought_step: Bool[Tensor, "rows steps"]
    is_answer_step: Bool[Tensor, "rows answer"]
    mismatch: Float[Tensor, "rows steps"]
    entropy: Float[Tensor, "rows steps"]
    max_weight: Float[Tensor, "rows steps"]
    effective_support: Float[Tensor, "rows steps"]


@dataclasses.dataclass(frozen=True)
class ExpectedGradient:
    """The factors that the log-probabilities will be multiplied by, where they are known in advance: one number per
    row."""

    thought: Float[Tensor, "rows"] | None = None
    answer: Float[Tensor, "rows"] | None = None

    def of_steps(self, term: str, row: Int[Tensor, "steps"]) -> Float[Tensor, "steps"] | None:
        """The number of each step's row."""
        of_rows = getattr(self, term)
        return None if of_rows is None else of_rows[row]


@flushing_denormals()
def replay(
    policy: Policy,
    thought: Thought,
    rollout: Rollout,
    *,
    answer_temperature: float = 1.0,
    prompts: PromptStates | None = None,
    prompt_of_row: Int[Tensor, "rows"] | None = None,
    expected: ExpectedGradient = ExpectedGradient(),
    spikes: Spikes | None = None,
) -> Replay:
    """Log-probabilities of every thought and answer step under the policy's current parameters.

    prompts, prompt_of_row: states of the rollout's prompts, each run once (`Policy.prompt_states`), and the prompt of
    each row; without them every row runs its own prompt. expected: see `ops.streamed`; only saves time. spikes:
    receives the gradient of each thought, where it is expected, and may scale it down, which does not change values.
    Peak memory: the activations of the positions that run, and what `ops.streamed` takes.
    """
    vocabulary = policy.vocabulary
    emitted = _Emitted.of(rollout)
    thinks, answers = emitted.kind == Kind.THOUGHT, emitted.kind == Kind.ANSWER
    row, step = torch.nonzero(thinks, as_tuple=True)
    drawn = stored_draws(rollout)
    if prompts is None or prompt_of_row is None:
        before = _before_emissions(policy, thought, rollout)
    else:
        inputs = _inputs(thought, vocabulary, emitted.ids, drawn, (row, step))
        after_prompt = policy.continuation(inputs[:, :-1], prompts, prompt_of_row)
        before = torch.cat((prompts.hidden[prompt_of_row][:, None], after_prompt), dim=1)
    hidden, coefficient, scale = before[row, step], expected.of_steps("thought", row), None
    if spikes is not None and coefficient is not None and hidden.requires_grad:
        if spikes.clips:
            scale = spikes.scale(thought, hidden, vocabulary, drawn)
            coefficient = coefficient * scale
        spikes.watch(hidden, coefficient)
    scores = thought.score(hidden, vocabulary, drawn, coefficient)
    surrogate = scores.surrogate
    if scale is not None:  # scale the gradient and keep the value
        surrogate = surrogate.detach() + scale * (surrogate - surrogate.detach())

    row, step = torch.nonzero(answers, as_tuple=True)
    answer_log_prob, _ = streamed.token_log_prob(
        vocabulary,
        before[row, step],
        emitted.ids[row, step],
        answer_temperature or 1.0,
        expected_gradient=expected.of_steps("answer", row),
    )
    thought_steps, answer_steps = _leading(thinks), _leading(answers)
    soft = scores.concentration
    measures = (scores.mismatch, soft.entropy, soft.max_weight, soft.effective_support)
    return Replay(
        _unflatten(surrogate, thought_steps),
        _unflatten(answer_log_prob, answer_steps),
        _unflatten(scores.log_prob, thought_steps),
        thought_steps,
        answer_steps,
        *(_unflatten(values, thought_steps) for values in measures),
    )


@flushing_denormals()
@torch.no_grad()
def hidden_before_thoughts(policy: Policy, thought: Thought, rollout: Rollout) -> Float[Tensor, "all_steps dim"]:
    """The hidden states that each thought step was drawn from, row by row."""
    return _before_emissions(policy, thought, rollout)[_Emitted.of(rollout).kind == Kind.THOUGHT]


@dataclasses.dataclass(frozen=True)
class _Emitted:
    """What follows the prompt of each row, from its first thought on, PAD at the end."""

    position: Int[Tensor, "rows emissions"]
    ids: Int[Tensor, "rows emissions"]
    kind: Int[Tensor, "rows emissions"]

    @staticmethod
    def of(rollout: Rollout) -> _Emitted:
        most = int((rollout.lengths - rollout.prompt_lengths).max())
        position = rollout.prompt_lengths[:, None] + torch.arange(most, device=rollout.ids.device)
        inside = position < rollout.lengths[:, None]
        position = torch.where(inside, position, 0)
        kind = torch.where(inside, rollout.kind.gather(1, position), Kind.PAD)
        return _Emitted(position, torch.where(inside, rollout.ids.gather(1, position), 0), kind)


def _before_emissions(policy: Policy, thought: Thought, rollout: Rollout) -> Float[Tensor, "rows emissions dim"]:
    """Hidden states that predict each emission, every row by itself."""
    emitted = _Emitted.of(rollout)
    row, step = torch.nonzero(emitted.kind == Kind.THOUGHT, as_tuple=True)
    places = (row, emitted.position[row, step])
    hidden = policy.hidden_states(_inputs(thought, policy.vocabulary, rollout.ids, stored_draws(rollout), places))
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    return hidden[rows, (emitted.position - 1).clamp_min(0)]


def _inputs(
    thought: Thought,
    vocabulary: Vocabulary,
    ids: Int[Tensor, "rows seq"],
    drawn: Draw,
    places: tuple[Int[Tensor, "all_steps"], Int[Tensor, "all_steps"]],
) -> Float[Tensor, "rows seq dim"]:
    """What the model was fed: embeddings of tokens, and at thought positions what the thoughts feed."""
    inputs = vocabulary.embed(ids)
    if thought.is_drawn_token:  # it fed these embeddings; a second look-up would cost a second gradient of the table
        return inputs
    return inputs.index_put(places, thought.fed(drawn, vocabulary).to(inputs.dtype))


def stored_draws(rollout: Rollout) -> Draw:
    """The thought steps of all rows, one after the other."""
    emitted = _Emitted.of(rollout)
    row, step = torch.nonzero(emitted.kind == Kind.THOUGHT, as_tuple=True)
    return Draw(
        token=emitted.ids[row, step],
        log_prob=rollout.log_prob[row, emitted.position[row, step]],
        keys=rollout.keys[row].at(step, Stream.THOUGHT),
        stored={name: x[row, step] for name, x in rollout.stored.items()},
    )


def _leading(chosen: Bool[Tensor, "rows emissions"]) -> Bool[Tensor, "rows most"]:
    """As many leading True per row as positions are chosen in it."""
    counts = chosen.sum(-1)
    return torch.arange(int(counts.max()), device=chosen.device) < counts[:, None]


def _unflatten(values: Float[Tensor, "all_steps"], where: Bool[Tensor, "rows steps"]) -> Float[Tensor, "rows steps"]:
    """Put flat values back in rows, 0 elsewhere; differentiable."""
    return torch.zeros(where.shape, dtype=values.dtype, device=values.device).masked_scatter(where, values)
