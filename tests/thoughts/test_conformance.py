"""One battery over every family of thoughts, in float64 on a small vocabulary, against closed forms.

Statistical checks use fixed keys; a bound of six standard errors on a few dozen numbers has a chance of a false alarm
below 1e-6 for a correct family.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from gated import Gated
from softtokens.ops import reference, streamed
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
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

DIM, TOKENS, UNUSED, SIGMA = 6, 11, 3, 0.2

THOUGHTS = {
    "hard": Hard(1.0),
    "hard-cool": Hard(0.6),
    "soft": Gaussian(0.5, SIGMA),
    "soft-density": Gaussian(0.5, SIGMA, estimator="density"),
    "soft-frozen-table": Gaussian(0.5, SIGMA, table_in_mean="frozen"),
    "fuzzy": Gaussian(1e-4, SIGMA),
    "noise-on-hidden": HiddenGaussian(0.5, SIGMA),
    "noise-on-logits": LogitGaussian(0.5, SIGMA),
    "noise-on-top-k": LogitGaussian(0.5, SIGMA, top_k=4),
    "gated": Gated(0.7),
    "multiplex": Multiplex(3, 0.8),
    "moi": MixtureOfInputs(4, 1.0, 0.8),
    "gumbel": Gumbel(4, 0.3, 0.8),
    "gumbel-one": Gumbel(1, 0.3, 0.8),
    "gumbel-all": Gumbel(TOKENS, 0.5),
    "dirichlet": Dirichlet(4, 5.0, 0.8),
    "dirichlet-small": Dirichlet(3, 0.5),
}
GAUSSIAN = {name: thought for name, thought in THOUGHTS.items() if isinstance(thought, Gaussian)}
WEIGHED = {name: thought for name, thought in THOUGHTS.items() if isinstance(thought, Gumbel | Dirichlet)}
NOISY = {name: thought for name, thought in THOUGHTS.items() if hasattr(thought, "sigma")}

every_thought = pytest.mark.parametrize("thought", THOUGHTS.values(), ids=THOUGHTS)
every_noisy = pytest.mark.parametrize("thought", NOISY.values(), ids=NOISY)
every_gaussian = pytest.mark.parametrize("thought", GAUSSIAN.values(), ids=GAUSSIAN)


@pytest.fixture
def vocabulary():
    generator = torch.Generator().manual_seed(3)
    head, table = torch.randn(2, TOKENS + UNUSED, DIM, dtype=torch.float64, generator=generator)
    torch.manual_seed(7)
    return Vocabulary(head, table, size=TOKENS, thought_head=Gated().new_head(DIM).double())


@pytest.fixture
def rounding(vocabulary):
    """The same with logits rounded to bfloat16."""
    return dataclasses.replace(vocabulary, rounding=torch.bfloat16)


@pytest.fixture
def hidden():
    return torch.randn(5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def near_tie(hidden, vocabulary, gap):
    """Hidden states moved so that their two largest logits differ by `gap`."""
    head = vocabulary.head[:TOKENS]
    first, second = (hidden @ head.T).topk(2).indices.T
    across = head[first] - head[second]
    excess = (hidden * across).sum(-1, keepdim=True) - gap
    return hidden - excess * across / across.square().sum(-1, keepdim=True)


def keys(rows, *, seed=5, step=0):
    return Keys(seed, torch.arange(rows) // 7, torch.arange(rows) % 7).at(step, Stream.THOUGHT)


def scores(thought, hidden_row, vocabulary, rows):
    """Gradients of the log-probability of `rows` samples with respect to the hidden state: [rows, dim]."""
    hidden = hidden_row.expand(rows, DIM).clone().requires_grad_()
    distribution = thought.at(hidden, vocabulary)
    drawn = distribution.draw(keys(rows))
    return torch.autograd.grad(distribution.surrogate(drawn).sum(), hidden)[0]


@every_thought
def test_score_has_zero_mean(thought, hidden, vocabulary):
    tau = getattr(thought, "tau", None)
    row = near_tie(hidden, vocabulary, gap=0.7 * tau)[0] if tau and tau < 0.01 else hidden[0]
    score = scores(thought, row, vocabulary, 20_000)
    assert score.abs().max() > 0
    error = score.std(0) / math.sqrt(len(score))
    assert (score.mean(0).abs() <= 6 * error + 1e-12).all()


@every_thought
def test_log_prob_agrees_with_finite_differences(thought, hidden, vocabulary):
    """Derivatives by the hidden state, the head and (where it is trained) the table."""
    if getattr(thought, "tau", 1) < 0.01:
        # a softmax this sharp has no usable finite differences of its own; the same formula at a milder temperature
        thought = dataclasses.replace(thought, tau=0.05)
    with torch.no_grad():
        distribution = thought.at(hidden, vocabulary)
        value = distribution.sample(keys(len(hidden)))
    trains_table = isinstance(thought, Gaussian) and thought.table_in_mean == "trained"

    def log_prob(h, head, table):
        return thought.at(h, dataclasses.replace(vocabulary, head=head, table=table)).log_prob(value)

    leaves = (hidden, vocabulary.head, vocabulary.table)
    leaves = tuple(x.clone().requires_grad_(trains_table or i < 2) for i, x in enumerate(leaves))
    assert torch.autograd.gradcheck(log_prob, leaves, eps=1e-6, atol=1e-6)
    if not trains_table:
        table = vocabulary.table.clone().requires_grad_()
        gradient = torch.autograd.grad(
            log_prob(hidden.requires_grad_(), vocabulary.head, table).sum(), table, allow_unused=True
        )
        assert gradient == (None,) or not gradient[0].any()


@every_noisy
def test_density_is_the_closed_form(thought, hidden, vocabulary):
    distribution = thought.at(hidden, vocabulary)
    value = distribution.sample(keys(len(hidden)))
    expected = reference.gaussian_log_prob(value, distribution.mean, thought.sigma)
    torch.testing.assert_close(distribution.log_prob(value), expected)


@every_gaussian
def test_mean_is_the_mixture(thought, hidden, vocabulary):
    expected = reference.mixture(hidden, vocabulary.head[:TOKENS], vocabulary.table[:TOKENS], thought.tau)
    torch.testing.assert_close(thought.at(hidden, vocabulary).mean, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_token_log_prob_is_the_closed_form(temperature, hidden, vocabulary):
    tokens = torch.arange(len(hidden))
    expected = reference.token_log_prob(hidden, vocabulary.head[:TOKENS], tokens, temperature)
    torch.testing.assert_close(Hard(temperature).at(hidden, vocabulary).log_prob(tokens), expected)


@every_gaussian
def test_score_in_logits_is_the_closed_form(thought, hidden, vocabulary):
    """d log pi / d z_v = p_v (e_v - mu) . eps / (tau sigma), for both estimators."""
    tau = thought.tau
    hidden = near_tie(hidden, vocabulary, gap=0.7 * tau)
    drawn = thought.at(hidden, vocabulary).draw(keys(len(hidden)))
    distribution = thought.at(hidden, vocabulary)
    logits = distribution.logits.detach().requires_grad_()
    log_prob = dataclasses.replace(distribution, logits=logits).surrogate(drawn)
    gradient = torch.autograd.grad(log_prob.sum(), logits)[0][:, :TOKENS]
    p = torch.softmax(logits.detach()[:, :TOKENS] / tau, -1)
    table = vocabulary.table[:TOKENS]
    noise = keys(len(hidden)).normal(DIM).double()
    expected = p * ((table[None] - (p @ table)[:, None]) * noise[:, None]).sum(-1) / (tau * thought.sigma)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@every_gaussian
def test_estimators_agree_at_the_sampling_parameters(thought, hidden, vocabulary):
    row = near_tie(hidden, vocabulary, gap=0.7 * thought.tau)[1]
    density = scores(dataclasses.replace(thought, estimator="density"), row, vocabulary, 20)
    replayed = scores(dataclasses.replace(thought, estimator="replay"), row, vocabulary, 20)
    torch.testing.assert_close(density, replayed, rtol=1e-6, atol=1e-6 * float(density.abs().max()))


@pytest.mark.parametrize(
    "thought", [HiddenGaussian(0.5, SIGMA), LogitGaussian(0.5, SIGMA), LogitGaussian(0.5, SIGMA, 4)]
)
def test_replay_of_perturbed_thoughts_has_the_gradient_of_the_density(thought, hidden, vocabulary):
    hidden = hidden.requires_grad_()
    distribution = thought.at(hidden, vocabulary)
    value, drawn = distribution.sample(keys(5)), distribution.draw(keys(5))
    (by_density,) = torch.autograd.grad(distribution.log_prob(value).sum(), hidden, retain_graph=True)
    (by_replay,) = torch.autograd.grad(distribution.surrogate(drawn).sum(), hidden)
    torch.testing.assert_close(by_replay, by_density)
    torch.testing.assert_close(thought.fed(drawn, vocabulary), distribution.embed(value))


@every_thought
def test_replay_and_draw_give_the_log_prob_of_the_sample(thought, hidden, vocabulary):
    distribution = thought.at(hidden, vocabulary)
    drawn = distribution.draw(keys(len(hidden)))
    value = distribution.sample(keys(len(hidden)))
    expected = distribution.log_prob(value)
    torch.testing.assert_close(drawn.log_prob.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distribution.surrogate(drawn), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "thought", [Hard(0.0), Gaussian(1e-6, 0.0), HiddenGaussian(1e-6, 0.0), LogitGaussian(1e-6, 0.0)]
)
def test_without_noise_and_temperature_thoughts_are_greedy_tokens(thought, hidden, vocabulary):
    greedy = (hidden @ vocabulary.head[:TOKENS].T).argmax(-1)
    drawn = thought.at(hidden, vocabulary).draw(keys(len(hidden)))
    assert torch.equal(drawn.token, greedy)
    torch.testing.assert_close(thought.fed(drawn, vocabulary), vocabulary.table[greedy])
    assert not drawn.log_prob.any()


@pytest.mark.parametrize("thought", [Gaussian(0.5, 0.0), HiddenGaussian(0.5, 0.0), LogitGaussian(0.5, 0.0)])
def test_a_thought_without_noise_has_no_density(thought, hidden, vocabulary):
    distribution = thought.at(hidden, vocabulary)
    for ask in (distribution.entropy, lambda: distribution.surrogate(distribution.draw(keys(5)))):
        with pytest.raises(ValueError, match="sigma is 0"):
            ask()


@every_thought
def test_unused_rows_are_never_thought_of(thought, hidden, vocabulary):
    """Rows beyond the tokenizer get neither tokens, nor shadow, nor weight, even where their logits are the largest."""
    head = vocabulary.head.clone()
    head[TOKENS:] = 100 * hidden[0]
    loud = dataclasses.replace(vocabulary, head=head)
    table = vocabulary.table.clone()
    table[TOKENS:] = float("nan") if isinstance(thought, (Hard, Multiplex)) else 1e9
    loud = dataclasses.replace(loud, table=table)
    drawn = thought.at(hidden, loud).draw(keys(len(hidden)))
    assert (drawn.token < TOKENS).all()
    assert thought.fed(drawn, loud).abs().max() < 1e3


@every_thought
def test_shadow_is_the_arg_max(thought, hidden, vocabulary):
    distribution = thought.at(hidden, vocabulary)
    expected = (hidden @ vocabulary.head[:TOKENS].T).argmax(-1)
    assert torch.equal(distribution.shadow, expected)
    if thought in NOISY.values():
        assert torch.equal(distribution.draw(keys(len(hidden))).token, expected)


@every_thought
def test_samples_depend_on_their_key_alone(thought, hidden, vocabulary):
    hidden = hidden.repeat(6, 1)
    whole = thought.at(hidden, vocabulary).draw(keys(30))
    order = torch.tensor([17, 3, 29, 8])
    part = thought.at(hidden[order], vocabulary).draw(keys(30)[order])
    fed = thought.fed(whole, vocabulary)
    torch.testing.assert_close(thought.fed(part, vocabulary), fed[order], rtol=1e-12, atol=1e-12)
    assert torch.equal(part.token, whole.token[order])
    torch.manual_seed(0)  # the global generator must not matter
    again = thought.at(hidden, vocabulary).draw(keys(30))
    assert torch.equal(thought.fed(again, vocabulary), fed)
    for other in (keys(30, seed=6), keys(30, step=1)):
        drawn = thought.at(hidden, vocabulary).draw(other)
        assert not torch.equal(thought.fed(drawn, vocabulary), fed)


@every_thought
def test_entropy_is_the_mean_of_minus_log_prob(thought, hidden, vocabulary):
    rows = 20_000
    distribution = thought.at(hidden[:1].expand(rows, DIM), vocabulary)
    if isinstance(thought, Gumbel):
        with pytest.raises(ValueError, match="no closed form"):
            distribution.entropy()
        return
    surprise = -distribution.log_prob(distribution.sample(keys(rows)))
    assert abs(surprise.mean() - distribution.entropy()[0]) < 6 * surprise.std() / math.sqrt(rows)


@every_noisy
def test_sample_moments(thought, hidden, vocabulary):
    rows = 20_000
    distribution = thought.at(hidden[:1].expand(rows, DIM), vocabulary)
    deviation = (distribution.sample(keys(rows)) - distribution.mean) / thought.sigma
    assert deviation.mean(0).abs().max() < 6 / math.sqrt(rows)
    assert (deviation.var(0) - 1).abs().max() < 6 * math.sqrt(2 / rows)
    assert (distribution.log_prob(distribution.mode) >= distribution.log_prob(distribution.sample(keys(rows)))).all()


def test_tokens_are_drawn_in_proportion(hidden, vocabulary):
    rows = 50_000
    distribution = Hard(0.8).at(hidden[:1].expand(rows, DIM), vocabulary)
    share = torch.bincount(distribution.sample(keys(rows)), minlength=TOKENS + UNUSED).double() / rows
    p = torch.softmax(distribution.logits[0] / 0.8, -1)
    assert (share - p).abs().max() < 6 * 0.5 / math.sqrt(rows)
    assert distribution.mode[0] == p.argmax()


@every_thought
def test_a_value_of_the_wrong_shape_is_refused(thought, hidden, vocabulary):
    with pytest.raises(ValueError, match="shape"):
        thought.at(hidden, vocabulary).log_prob(torch.zeros(5, 99))


@every_thought
def test_what_is_stored_is_what_the_thought_says_and_enough_to_feed_it(thought, hidden, vocabulary):
    distribution, sample_keys = thought.at(hidden, vocabulary), keys(len(hidden))
    drawn = distribution.draw(sample_keys)
    sizes = {name: (size, dtype.is_floating_point) for name, (size, dtype) in thought.stores(DIM).items()}
    assert {name: (x.shape[1], x.is_floating_point()) for name, x in drawn.stored.items()} == sizes
    expected = distribution.embed(distribution.sample(sample_keys))
    torch.testing.assert_close(thought.fed(drawn, vocabulary), expected)
    torch.testing.assert_close(thought.fed(drawn[2:], vocabulary), expected[2:])


@every_thought
def test_noise_is_how_far_it_moves_what_is_fed(thought, hidden, vocabulary):
    distribution = thought.at(hidden, vocabulary)
    drawn = distribution.draw(keys(len(hidden)))
    moved = (thought.fed(drawn, vocabulary) - distribution.embed(distribution.mode)).norm(dim=-1)
    expected = moved if thought in [*NOISY.values(), *WEIGHED.values()] else torch.zeros_like(moved)
    torch.testing.assert_close(distribution.noise_length(drawn), expected, check_dtype=False, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["soft", "noise-on-hidden", "noise-on-top-k", "multiplex", "gumbel", "dirichlet"])
def test_a_stored_step_has_its_log_prob_under_moved_parameters(name, hidden, vocabulary):
    """The noisy top-k logits of the rollout, whichever are the largest now."""
    thought = THOUGHTS[name]
    before, moved = (thought.at(h, vocabulary) for h in (hidden, hidden + 0.05))
    drawn, value = before.draw(keys(5)), before.sample(keys(5))
    torch.testing.assert_close(before.stored_log_prob(drawn), before.log_prob(value))
    expected = moved.log_prob(value)
    if name == "noise-on-top-k":
        now = moved.logits.gather(-1, drawn.stored["support"])
        expected = reference.gaussian_log_prob(value, now, SIGMA)
    torch.testing.assert_close(moved.stored_log_prob(drawn), expected)
    assert (expected - before.log_prob(value)).abs().min() > 1e-4
    if name.startswith("noise"):
        far = now if name == "noise-on-top-k" else moved.mean
        distance = (far - before.mean).square().sum(-1) / (2 * SIGMA**2)
        torch.testing.assert_close(moved.mismatch(drawn), distance, rtol=1e-6, atol=1e-9)
        assert before.mismatch(drawn).max() < 1e-10


def test_noise_on_all_logits_is_too_large_to_keep(hidden, vocabulary):
    distribution = THOUGHTS["noise-on-logits"].at(hidden, vocabulary)
    drawn = distribution.draw(keys(5))
    assert distribution.stored_log_prob(drawn).isnan().all() and distribution.mismatch(drawn).isnan().all()


@pytest.mark.parametrize("thought", GAUSSIAN.values(), ids=GAUSSIAN)
def test_mismatch_is_the_kl_of_moved_means(thought, hidden, vocabulary):
    drawn = thought.at(hidden, vocabulary).draw(keys(5))
    same = thought.at(hidden, vocabulary).mismatch(drawn)
    assert same.abs().max() < 1e-10
    moved = thought.at(hidden + 0.3, vocabulary)
    expected = (moved.mean - thought.at(hidden, vocabulary).mean).square().sum(-1) / (2 * SIGMA**2)
    torch.testing.assert_close(moved.mismatch(drawn), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hard(-1), "temperature"),
        (lambda: Gaussian(0, 0.1), "tau"),
        (lambda: Gaussian(0.5, -0.1), "sigma"),
        (lambda: Gaussian(float("nan"), 0.1), "tau"),
        (lambda: HiddenGaussian(-1, 0.1), "tau"),
        (lambda: LogitGaussian(0.5, 0.1, top_k=0), "top_k"),
        (lambda: Multiplex(0), "width"),
        (lambda: Multiplex(3, 0.0), "temperature"),
        (lambda: Gumbel(0, 0.1), "top_k"),
        (lambda: Gumbel(3, 0.0), "weight_temperature"),
        (lambda: Gumbel(3, 0.1, -1.0), "temperature"),
        (lambda: Dirichlet(0, 1.0), "top_k"),
        (lambda: Dirichlet(3, 0.0), "concentration"),
        (lambda: Dirichlet(3, 1.0, 0.0), "temperature"),
        (lambda: MixtureOfInputs(0, 1.0), "top_k"),
        (lambda: MixtureOfInputs(3, -0.1), "beta"),
        (lambda: SoftThinking(0), "top_k"),
        (lambda: SoftThinking(3, 0.0), "temperature"),
    ],
)
def test_absurd_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_top_k_larger_than_the_vocabulary_is_refused(hidden, vocabulary):
    with pytest.raises(UserError, match="top_k"):
        LogitGaussian(0.5, 0.1, top_k=TOKENS + 1).at(hidden, vocabulary)


@pytest.mark.parametrize("known", [False, True])
@every_thought
def test_scores_are_those_of_the_distribution(thought, hidden, vocabulary, known, monkeypatch):
    """The streamed path has the same values and gradients as the readable one."""
    monkeypatch.setattr(streamed, "default_chunk_rows", lambda vocabulary: 2)
    if isinstance(thought, Gaussian):
        hidden = near_tie(hidden, vocabulary, gap=0.7 * thought.tau)
    drawn = thought.at(hidden, vocabulary).draw(keys(len(hidden)))
    upstream = torch.randn(len(hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    leaves = [x.clone().requires_grad_() for x in (hidden, vocabulary.head, vocabulary.table)]
    moved = dataclasses.replace(vocabulary, head=leaves[1], table=leaves[2])
    scores = thought.score(leaves[0], moved, drawn, upstream if known else None)
    distribution = thought.at(leaves[0], moved)
    expected = distribution.surrogate(drawn)
    torch.testing.assert_close(scores.surrogate, expected)
    torch.testing.assert_close(scores.mismatch, distribution.mismatch(drawn), equal_nan=True, rtol=1e-6, atol=1e-20)
    for ours, theirs in zip(
        dataclasses.astuple(scores.concentration), dataclasses.astuple(distribution.concentration), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(
        torch.autograd.grad(scores.surrogate, leaves, upstream, allow_unused=True),
        torch.autograd.grad(expected, leaves, upstream, allow_unused=True),
        strict=True,
    ):
        if ours is None or theirs is None:
            assert (ours is None or not ours.any()) and (theirs is None or not theirs.any())
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9 * float(theirs.abs().max()))


def test_logits_are_rounded_and_their_gradients_are_not(hidden, vocabulary, rounding):
    hidden = hidden.requires_grad_()
    plain, rounded = vocabulary.logits(hidden), rounding.logits(hidden)
    assert torch.equal(rounded[:, :TOKENS], plain[:, :TOKENS].bfloat16().double())
    assert not torch.equal(rounded, plain)
    upstream = torch.randn(5, TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    ours, theirs = (
        torch.autograd.grad(logits[:, :TOKENS], hidden, upstream, retain_graph=True) for logits in (rounded, plain)
    )
    torch.testing.assert_close(ours, theirs)


@every_thought
def test_streamed_scores_of_rounded_logits_are_those_of_the_distribution(thought, hidden, rounding):
    """A near tie becomes a tie, whose mixture carries a gradient at any temperature."""
    hidden = near_tie(hidden, rounding, gap=1e-4).requires_grad_()
    drawn = thought.at(hidden, rounding).draw(keys(len(hidden)))
    distribution = thought.at(hidden, rounding)
    scores = thought.score(hidden, rounding, drawn)
    torch.testing.assert_close(scores.surrogate, distribution.surrogate(drawn))
    upstream = torch.linspace(-1, 1, len(hidden), dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(x, hidden, upstream.to(x.dtype), retain_graph=True)[0]
        for x in (scores.surrogate, distribution.surrogate(drawn))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9 * float(theirs.abs().max()) + 1e-12)


def test_fuzzy_thoughts_learn_from_rounded_ties(hidden, vocabulary, rounding):
    """With the same hidden states, float32 logits that differ by much more than tau give no gradient."""
    thought, near = Gaussian(1e-4, SIGMA), near_tie(hidden, vocabulary, gap=2e-3)
    norms = []
    for words in (vocabulary, rounding):
        leaf = near.clone().requires_grad_()
        distribution = thought.at(leaf, words)
        norms.append(torch.autograd.grad(distribution.surrogate(distribution.draw(keys(5))).sum(), leaf)[0].norm())
    assert norms[0] < 1e-2 * norms[1]
