"""Rollouts: what is emitted, what a rollout depends on, and that replay scores it as it was sampled."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from conftest import FAMILIES
from plain_loop import plain_rollout
from softtokens.endings import EOS, LIMIT, PAPER, Ending, Endings
from softtokens.models.hf import load_policy
from softtokens.ops import streamed
from softtokens.ops.random import Keys, Stream
from softtokens.rollout import decode
from softtokens.rollout.decode import sample_rollout, stream_rollouts
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Kind, Rollout
from softtokens.rollout.replay import replay, stored_draws
from softtokens.rollout.stopping import decode_text, ending_by_text
from softtokens.thoughts import (
    Dirichlet,
    Gaussian,
    Gumbel,
    Hard,
    HiddenGaussian,
    LogitGaussian,
    MixtureOfInputs,
    Multiplex,
    SoftThinking,
)
from softtokens.types import UserError

GROUP, LIMITS = 4, Limits(max_thought_steps=12, max_answer_tokens=5)


def family_and_thought(*names: str) -> list[tuple[str, str]]:
    """Every thought on one family of models, and on the others a token and a mixture: what a thought does with a
    model's logits does not depend on what made them."""
    first, *others = FAMILIES
    return [(first, name) for name in names] + [(family, name) for family in others for name in ("hard", "soft")]


def thoughts_of(policy, names=None):
    unit = 0.33 * policy.embedding_rms
    thoughts = {
        "hard": Hard(),
        "soft": Gaussian(0.5, unit),
        "soft-density": Gaussian(0.5, unit, estimator="density"),
        "fuzzy": Gaussian(1e-4, unit),
        "hidden": HiddenGaussian(0.5, 0.3),
        "logits": LogitGaussian(0.5, 0.3),
        "top-k": LogitGaussian(0.5, 0.3, 5),
        "multiplex": Multiplex(3),
        "moi": MixtureOfInputs(4, 1.0),
        "gumbel": Gumbel(4, 0.1),
        "dirichlet": Dirichlet(4, 1.0),
        "soft-thinking": SoftThinking(4),
    }
    return {name: thoughts[name] for name in names or thoughts}


def sample(policy, thought, prompts, *, limits=LIMITS, group=GROUP, problems=None, seed=11):
    problems = list(range(len(prompts))) if problems is None else problems
    of_row = [i for i in range(len(prompts)) for _ in range(group)]
    keys = Keys(seed, torch.tensor([problems[i] for i in of_row]), torch.arange(len(of_row)) % group)
    return sample_rollout(policy, thought, prompts, of_row, keys, limits)


def test_every_part_is_marked(policy, prompts, tokenizer):
    rollout = sample(policy, Gaussian(0.5, 0.1), prompts)
    for row in range(rollout.rows):
        kinds = rollout.kind[row].tolist()
        ids = rollout.ids[row]
        prompt = prompts[row // GROUP]
        assert sorted(kinds, key=[1, 2, 3, 4, 0].index) == kinds  # prompt, thoughts, forced, answer, padding
        assert ids[: len(prompt)].tolist() == prompt and kinds.count(Kind.PROMPT) == len(prompt)
        assert 1 <= kinds.count(Kind.THOUGHT) <= 12 and 1 <= kinds.count(Kind.ANSWER) <= 5
        assert rollout.thought_texts[row] == decode_text(tokenizer, ids[rollout.is_thought[row]].tolist())
        forced = decode_text(tokenizer, ids[rollout.kind[row] == Kind.FORCED].tolist())
        assert rollout.answer_texts[row].startswith(forced) and forced.endswith("\\boxed{")
        if rollout.stop_reasons[row] == LIMIT:
            assert kinds.count(Kind.THOUGHT) == 12 and "The final answer is:" in forced
    assert rollout.stored["inputs"].shape == (rollout.rows, int(rollout.thought_lengths.max()), 32)
    assert not rollout.log_prob[~(rollout.is_thought | rollout.is_answer)].any()


@pytest.mark.parametrize(
    ("family", "name"),
    family_and_thought(
        "hard", "soft", "soft-density", "fuzzy", "hidden", "logits", "top-k", "multiplex", "moi", "gumbel", "dirichlet"
    ),
)
def test_replay_gives_the_log_probs_of_the_rollout(make_policy, prompts, family, name):
    policy = make_policy(family)
    (thought,) = thoughts_of(policy, [name]).values()
    rollout = sample(policy, thought, prompts)
    again = replay(policy, thought, rollout)
    # a whole vocabulary of noisy logits is not stored, so only the surrogate has its log-probability
    values = again.thought_surrogate if name == "logits" else again.thought_log_prob
    torch.testing.assert_close(
        values[again.is_thought_step].detach(), rollout.log_prob[rollout.is_thought], rtol=1e-4, atol=1e-4
    )
    assert again.thought_log_prob[again.is_thought_step].isnan().all() == (values is again.thought_surrogate)
    torch.testing.assert_close(
        again.answer_log_prob[again.is_answer_step].detach(), rollout.log_prob[rollout.is_answer], rtol=1e-4, atol=1e-4
    )
    assert not again.thought_log_prob[~again.is_thought_step].any()
    if name in ("soft", "soft-density", "fuzzy", "hidden", "top-k"):
        assert again.mismatch.max() < 1e-6
    assert (again.max_weight[again.is_thought_step] > 0).all()
    assert (again.effective_support[again.is_thought_step] >= 0.999).all()


@pytest.mark.parametrize("name", ["hard", "soft", "fuzzy", "top-k"])
def test_the_gradient_is_that_of_the_obvious_loss(make_policy, prompts, name, monkeypatch):
    """Replay in small chunks, compared with one model call per row that keeps all logits in memory."""
    policy = make_policy("llama")
    (thought,) = thoughts_of(policy, [name]).values()
    rollout = sample(policy, thought, prompts[:2], group=2)
    parameters = list(policy.model.parameters())
    coefficient = torch.randn(rollout.rows, generator=torch.Generator().manual_seed(1))

    monkeypatch.setattr(streamed, "default_chunk_rows", lambda vocabulary: 3)
    part = replay(policy, thought, rollout)
    loss = (coefficient * (part.thought_surrogate.sum(-1) + part.answer_log_prob.sum(-1))).sum()
    gradient = torch.autograd.grad(loss, parameters)

    total = 0.0
    for row in range(rollout.rows):
        length, kind = int(rollout.lengths[row]), rollout.kind[row]
        inputs = policy.model.get_input_embeddings()(rollout.ids[row, :length])
        chosen = kind[:length] == Kind.THOUGHT
        if not thought.is_drawn_token:
            inputs = inputs.clone()
            inputs[chosen] = rollout.stored["inputs"][row, : int(chosen.sum())]
        hidden = policy.model.model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]
        logits = (hidden @ policy.model.lm_head.weight.T)[:, : len(policy.tokenizer)]
        log_p = torch.log_softmax(logits, -1)
        step = 0
        for at in range(length):
            if kind[at] == Kind.ANSWER or (kind[at] == Kind.THOUGHT and thought.is_drawn_token):
                total = total + coefficient[row] * log_p[at - 1, rollout.ids[row, at]]
            elif kind[at] == Kind.THOUGHT:
                keys = rollout.keys[torch.tensor([row])].at(step, Stream.THOUGHT)
                if isinstance(thought, Gaussian):
                    table = policy.model.get_input_embeddings().weight[: len(policy.tokenizer)]
                    location = torch.softmax(logits[at - 1] / thought.tau, -1) @ table
                else:
                    location = logits[at - 1][rollout.stored["support"][row, step]]
                total = total + coefficient[row] * (keys.normal(len(location))[0] @ location) / thought.sigma
                step += 1
    expected = torch.autograd.grad(total, parameters)
    scale = max(float(g.abs().max()) for g in expected)
    for ours, obvious in zip(gradient, expected, strict=True):
        torch.testing.assert_close(ours, obvious, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_running_each_prompt_once_changes_nothing(make_policy, prompts, family):
    """Rollouts that share their prompt's keys and values, compared with each running its own: values and gradients."""
    policy = make_policy(family)
    rollout = sample(policy, Gaussian(0.5, 0.1), prompts)
    distinct, of_row = rollout.prompts()
    assert distinct == prompts and of_row.tolist() == [i for i in range(len(prompts)) for _ in range(GROUP)]
    parameters = list(policy.model.parameters())
    coefficient = torch.randn(rollout.rows, generator=torch.Generator().manual_seed(1))
    results = []
    for shared in ({}, {"prompts": policy.prompt_states(distinct), "prompt_of_row": of_row}):
        part = replay(policy, Gaussian(0.5, 0.1), rollout, **shared)
        values = (part.thought_surrogate.sum(-1), part.answer_log_prob.sum(-1))
        gradient = torch.autograd.grad((coefficient * sum(values)).sum(), parameters, allow_unused=True)
        results.append([*(v.detach() for v in values), *(g for g in gradient if g is not None)])
    for shared, alone in zip(*reversed(results), strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


def test_chunks_do_not_matter(policy, prompts, monkeypatch):
    thought = Gaussian(0.5, 0.1)
    rollout = sample(policy, thought, prompts)
    parameters = list(policy.model.parameters())

    def scored(chunk_rows):
        monkeypatch.setattr(streamed, "default_chunk_rows", lambda vocabulary: chunk_rows)
        part = replay(policy, thought, rollout)
        loss = part.thought_surrogate.sum() + part.answer_log_prob.sum()
        return [part.thought_surrogate.detach(), *torch.autograd.grad(loss, parameters)]

    for small, large in zip(scored(1), scored(1 << 20), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4 * float(large.abs().max()))


def same_rows(one: Rollout, rows, other: Rollout, bitwise: bool):
    for row, other_row in zip(rows, range(other.rows), strict=True):
        steps, length = int(other.thought_lengths[other_row]), int(other.lengths[other_row])
        assert one.ids[row, :length].tolist() == other.ids[other_row, :length].tolist()
        assert one.answer_texts[row] == other.answer_texts[other_row]
        assert one.stop_reasons[row] == other.stop_reasons[other_row]
        if other.stored:
            for name in other.stored:
                a, b = one.stored[name][row, :steps], other.stored[name][other_row, :steps]
                assert torch.equal(a, b) if bitwise else torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name"), family_and_thought("hard", "soft", "top-k", "multiplex", "moi", "gumbel", "dirichlet")
)
def test_a_rollout_does_not_depend_on_its_batch(make_policy, prompts, family, name):
    """Prompts of mixed length together, each alone, and in reverse order.

    In float64: a random model is chaotic, and float32 rounding, which does depend on the batch's shape, grows with the
    steps.
    """
    policy = make_policy(family, dtype=torch.float64)
    (thought,) = thoughts_of(policy, [name]).values()
    whole = sample(policy, thought, prompts)
    for i, prompt in enumerate(prompts):
        alone = sample(policy, thought, [prompt], problems=[i])
        same_rows(whole, range(i * GROUP, (i + 1) * GROUP), alone, bitwise=False)
    reverse = sample(policy, thought, prompts[::-1], problems=[2, 1, 0])
    rows = [r for i in (2, 1, 0) for r in range(i * GROUP, (i + 1) * GROUP)]
    same_rows(whole, rows, reverse, bitwise=False)


def test_batches_of_eight_and_more_give_the_same_bits(policy, prompts):
    thought = Gaussian(0.5, 0.1)
    whole = sample(policy, thought, prompts, group=16)
    for i, prompt in enumerate(prompts):
        alone = sample(policy, thought, [prompt], group=16, problems=[i])
        same_rows(whole, range(i * 16, (i + 1) * 16), alone, bitwise=True)


def same_as_plain(rollout, row, policy, thought, prompt, limits):
    """Check one row against the plain loop, and return the loop's rollout."""
    plain = plain_rollout(policy, thought, prompt, rollout.keys[torch.tensor([row])], limits)
    length = int(rollout.lengths[row])
    assert rollout.ids[row, :length].tolist() == plain.ids
    assert rollout.kind[row, :length].tolist() == plain.kind
    assert rollout.stop_reasons[row] == plain.reason
    return plain


@pytest.mark.parametrize(
    ("family", "name"),
    family_and_thought(
        "hard", "soft", "fuzzy", "hidden", "logits", "top-k", "multiplex", "moi", "gumbel", "dirichlet", "soft-thinking"
    ),
)
def test_the_engine_does_what_the_plain_loop_does(make_policy, prompts, family, name):
    """One row at a time, without cache, state machine or automaton. In float64, see above."""
    policy = make_policy(family, dtype=torch.float64)
    (thought,) = thoughts_of(policy, [name]).values()
    limits = Limits(max_thought_steps=6, max_answer_tokens=3, answer_temperature=0.7)
    rollout = sample(policy, thought, prompts, limits=limits, group=3)
    fed = thought.fed(stored_draws(rollout), policy.vocabulary).float().split(rollout.thought_lengths.tolist())
    for row in range(rollout.rows):
        plain = same_as_plain(rollout, row, policy, thought, prompts[row // 3], limits)
        expected = [x for x, kind in zip(plain.fed, plain.kind, strict=True) if kind == Kind.THOUGHT]
        torch.testing.assert_close(fed[row], torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("thought", [Hard(8.0), Gaussian(0.5, 1.0)])
def test_thoughts_end_in_any_of_several_ways(make_policy, prompts, thought):
    """Each with its own forced text, which may be empty: as in the plain loop."""
    policy = make_policy(dtype=torch.float64)
    texts = [decode_text(policy.tokenizer, [i]).strip() for i in range(40, 80)]
    ways = [Ending(f"text {i}", " 12" * (i % 3), text) for i, text in enumerate(texts) if text]
    ways.append(Ending("token", "", token_ids=tuple(range(100, 140))))
    limits = Limits(max_thought_steps=6, max_answer_tokens=3, endings=Endings(tuple(ways), "4"))
    rollout = sample(policy, thought, prompts, limits=limits, group=32)
    for row in range(rollout.rows):
        same_as_plain(rollout, row, policy, thought, prompts[row // 32], limits)
    assert {"token", LIMIT} < set(rollout.stop_reasons) and any(r.startswith("text") for r in rollout.stop_reasons)
    lengths = (rollout.kind == Kind.FORCED).sum(-1)
    assert 0 in lengths and len(set(lengths.tolist())) > 2


@pytest.mark.parametrize("slots", [8, 11, 16, 64])
@pytest.mark.parametrize("thought", [Hard(8.0), Gaussian(0.5, 1.0), LogitGaussian(0.5, 3.0, 5)])
def test_filling_free_slots_changes_nothing(make_policy, prompts, thought, slots):
    """Rows that wait for a free slot give the same bits as when all run at once, each exactly once."""
    policy = make_policy()
    policy.eos_ids = frozenset(range(0, 300, 12))  # often enough, with this noise, for rows of all lengths
    of_row = [i % 3 for i in range(40)]
    keys = Keys(3, torch.tensor(of_row), torch.arange(40))
    # an odd number of positions, over which attention would round differently
    limits = Limits(max_thought_steps=20, max_answer_tokens=5)
    whole = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    finished = []
    for rows, part in stream_rollouts(policy, thought, prompts, of_row, keys, limits, slots=slots):
        same_rows(whole, rows.tolist(), part, bitwise=True)
        assert torch.equal(part.keys.rollout, rows)
        finished += rows.tolist()
    assert sorted(finished) == list(range(40))
    assert len(set(whole.thought_lengths.tolist())) > 2


def test_each_prompt_runs_once(make_policy, prompts, monkeypatch):
    """In whatever order its rows arrive: here those of one prompt in several batches, mixed with others."""
    policy = make_policy()
    policy.eos_ids = frozenset(range(0, 300, 12))
    ran, run = [], policy.prompt_states
    monkeypatch.setattr(policy, "prompt_states", lambda prompts: ran.extend(prompts) or run(prompts))
    of_row = [0] * 20 + [i % 3 for i in range(20)]
    keys = Keys(3, torch.tensor(of_row), torch.arange(40))
    for _, part in stream_rollouts(policy, Hard(8.0), prompts, of_row, keys, Limits(20, 5), slots=8):
        assert part.rows < 40
    assert sorted(ran) == sorted(prompts)


def test_prompts_of_similar_length_run_together(make_policy, monkeypatch):
    """One long prompt among many does not pad them all; a prompt's rollout is the one it has without the long ones."""
    policy = make_policy()
    prompts = [[3 + i, 40, 41] * (9 if i < 2 else 2 + i % 2) for i in range(20)]
    ran, run = [], policy.prompt_states
    monkeypatch.setattr(policy, "prompt_states", lambda prompts: ran.append([len(p) for p in prompts]) or run(prompts))
    whole = sample(policy, Gaussian(0.5, 0.1), prompts, group=1)
    assert [sorted(set(lengths)) for lengths in ran] == [[9, 27], [6, 9]]
    assert [len(lengths) for lengths in ran] == [8, 12]
    short = sample(policy, Gaussian(0.5, 0.1), prompts[2:], group=1, problems=range(2, 20))
    same_rows(whole, range(2, 20), short, bitwise=True)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([5], [1]),
        ([9, 100, 5], [3]),  # fewer than eight are one group
        ([10] * 40, [40]),
        ([100] + [10] * 7, [8]),
        ([100] * 8 + [10] * 7, [15]),  # the rest would be fewer than eight
        ([100] * 8 + [76] * 2 + [74] * 8, [10, 8]),
        ([100] + [10] * 20, [8, 13]),
    ],
)
def test_groups_of_similar_length(lengths, groups):
    found = decode.similar_lengths(dict(enumerate(lengths, 50)))
    assert [len(group) for group in found] == groups
    assert sorted(prompt for group in found for prompt in group) == list(range(50, 50 + len(lengths)))


@pytest.mark.parametrize(
    "thought", [Hard(), Hard(0.0), Gaussian(0.5, 0.1), LogitGaussian(0.5, 0.1), Multiplex(2)], ids=str
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_named(make_policy, prompts, thought, value):
    """A model that breaks on one token: the row that meets it is named, and the step."""
    policy = make_policy("llama-untied")
    bad = next(token for token in prompts[1] if token not in prompts[0] + prompts[2])
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[bad] = value
    first = 1 if isinstance(thought, (Hard, Multiplex)) else 0  # a mixture contains a part of every token
    with pytest.raises(FloatingPointError, match=f"for problem {first}, rollout 0, at step 1 after the prompt"):
        sample(policy, thought, prompts)


def test_what_was_fed_need_not_be_kept(policy, prompts):
    of_row, keys = [0, 1, 2], Keys(0, torch.arange(3), torch.arange(3))
    ((_, rollout),) = stream_rollouts(policy, Gaussian(0.5, 0.1), prompts, of_row, keys, LIMITS, for_replay=False)
    assert not rollout.stored


def test_leaving_the_batch_changes_nothing(policy, prompts, monkeypatch):
    """Rows that finish early leave the batch, and the others continue unchanged."""
    limits = Limits(max_thought_steps=30, max_answer_tokens=2)
    thought = Hard(8.0)  # hot enough to draw end-of-sequence tokens at any step
    with monkeypatch.context() as patch:
        patch.setattr(decode._Batch, "shrink", lambda self: None)
        kept = sample(policy, thought, prompts, limits=limits, group=32)
    shrunk = sample(policy, thought, prompts, limits=limits, group=32)
    assert len(set(shrunk.thought_lengths.tolist())) > 3
    same_rows(kept, range(kept.rows), shrunk, bitwise=True)


def test_thoughts_end_at_the_phrase_the_limit_or_the_end_of_sequence(prompts, tokenizer):
    tiny = load_policy("tiny")
    texts = ["User: Tom has 14 apples. He buys 7 more. How many apples does he have?\nAssistant:"]
    ids = [tiny.tokenizer.encode(text) for text in texts]
    for thought in (Hard(), Gaussian(0.5, 0.33 * tiny.embedding_rms), Hard(5.0)):
        rollout = sample(tiny, thought, ids, group=32, limits=Limits(max_thought_steps=24, max_answer_tokens=8))
        for row, reason in enumerate(rollout.stop_reasons):
            text = rollout.thought_texts[row]
            last = int(rollout.ids[row][rollout.is_thought[row]][-1])
            assert (reason == "phrase") == (ending_by_text(text, PAPER) == 0)
            assert (reason == EOS) == (last in tiny.eos_ids)
            if reason == LIMIT:
                assert int(rollout.thought_lengths[row]) == 24
            whole = text + rollout.answer_texts[row]
            assert "The final answer is: \\boxed{" in whole
        reasons = set(rollout.stop_reasons)
        assert reasons == {LIMIT, EOS} if thought == Hard(5.0) else "phrase" in reasons


def test_answers_can_be_greedy_while_thoughts_are_not(policy, prompts):
    limits = dataclasses.replace(LIMITS, answer_temperature=0.0)
    rollout = sample(policy, Gaussian(0.5, 0.1), prompts, limits=limits)
    again = replay(policy, Gaussian(0.5, 0.1), rollout)
    assert not rollout.log_prob[rollout.is_answer].any()
    row = 0
    at = int(torch.nonzero(rollout.is_answer[row])[0])
    inputs = policy.vocabulary.embed(rollout.ids[row : row + 1, :at])
    steps = rollout.is_thought[row, :at]
    inputs[0, steps] = rollout.stored["inputs"][row, : int(steps.sum())]
    with torch.no_grad():
        logits = policy.vocabulary.logits(policy.hidden_states(inputs)[0, -1:])
    assert int(logits.argmax()) == int(rollout.ids[row, at])
    assert again.answer_log_prob.shape[0] == rollout.rows


def test_a_rollout_can_be_saved_and_replayed(policy, prompts, tmp_path):
    for thought in thoughts_of(policy, ["hard", "soft", "top-k"]).values():
        rollout = sample(policy, thought, prompts)
        rollout.save(tmp_path / "rollout.safetensors")
        loaded = Rollout.load(tmp_path / "rollout.safetensors")
        assert loaded.stop_reasons == rollout.stop_reasons
        assert loaded.thought_texts == rollout.thought_texts and loaded.answer_texts == rollout.answer_texts
        expected, again = (replay(policy, thought, r) for r in (rollout, loaded))
        assert torch.equal(again.thought_surrogate, expected.thought_surrogate)
        assert torch.equal(again.answer_log_prob, expected.answer_log_prob)


def test_a_stored_step_is_of_the_size_of_an_embedding(policy, prompts, tmp_path):
    """d numbers per thought step, never the vocabulary."""
    rollout = sample(policy, LogitGaussian(0.5, 0.3), prompts)
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if torch.is_tensor(value):
            assert policy.vocabulary.head.shape[0] not in value.shape


@pytest.mark.parametrize("name", ["hard", "soft", "fuzzy"])
def test_rounded_logits_are_rounded_alike_in_rollout_and_replay(make_policy, prompts, name):
    """Except for the few logits at the edge between two values of bfloat16."""
    policy = make_policy("llama-untied")
    policy.logits_rounding = torch.bfloat16
    (thought,) = thoughts_of(policy, [name]).values()
    rollout = sample(policy, thought, prompts)
    again = replay(policy, thought, rollout)
    steps = again.is_thought_step
    apart = (again.thought_log_prob[steps] - rollout.log_prob[rollout.is_thought]).abs()
    assert (apart < 1e-3).float().mean() > 0.9
    answers = (again.answer_log_prob[again.is_answer_step] - rollout.log_prob[rollout.is_answer]).abs()
    assert (answers < 1e-3).float().mean() > 0.9 and answers.max() < 0.1
    policy.logits_rounding = None
    other = replay(policy, thought, rollout).answer_log_prob[again.is_answer_step]
    assert ((other - rollout.log_prob[rollout.is_answer]).abs() > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize("name", ["hard", "soft", "soft-density", "fuzzy"])
def test_log_probs_move_with_the_weights(policy, prompts, name):
    """A ratio or a divergence can be built on them, whatever the estimator of the gradient."""
    (thought,) = thoughts_of(policy, [name]).values()
    rollout = sample(policy, thought, prompts)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.1)
    moved = replay(policy, thought, rollout)
    steps = moved.is_thought_step
    change = moved.thought_log_prob[steps] - rollout.log_prob[rollout.is_thought]
    assert (change.abs() > 1e-3).float().mean() > 0.9
    if name == "soft":  # the stored noise keeps its density
        torch.testing.assert_close(
            moved.thought_surrogate[steps].detach(), rollout.log_prob[rollout.is_thought], rtol=1e-4, atol=1e-4
        )


def test_some_rows_replay_as_among_all(policy, prompts):
    thought = Gaussian(0.5, 0.1)
    rollout = sample(policy, thought, prompts)
    rows = torch.tensor([7, 2, 9])
    part, whole = replay(policy, thought, rollout.take(rows)), replay(policy, thought, rollout)
    torch.testing.assert_close(
        part.thought_log_prob.sum(-1), whole.thought_log_prob.sum(-1)[rows], rtol=1e-4, atol=1e-4
    )


def test_what_does_not_fit_is_refused(policy, prompts):
    with pytest.raises(UserError, match="context of 256 has room for 0"):
        sample(policy, Hard(), prompts, limits=Limits(max_thought_steps=250))
    with pytest.raises(UserError, match="empty"):
        sample(policy, Hard(), [[]])
    for bad in ({"max_thought_steps": 0}, {"max_answer_tokens": 0}, {"answer_temperature": -1.0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            Limits(**bad)
