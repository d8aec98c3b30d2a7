"""The measured gradient is the one that training would follow, on the batches that it would draw."""

import dataclasses
import json
import re

import pytest
import torch

from softtokens import cli
from softtokens.config.commands import ReportConfig
from softtokens.config.signal import SMALLEST_SKETCH, SignalConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import RewardConfig, TrainConfig
from softtokens.ops import sketch
from softtokens.report.build import report
from softtokens.signal import measure
from softtokens.signal.estimate import Estimate, gram_of
from softtokens.signal.keep import SKETCH, keeping, sketch_size
from softtokens.signal.measure import Measured, Signal, estimates, signal
from softtokens.signal.show import FILE, as_json, rounded, sentence
from softtokens.train import step as step_module
from softtokens.train.loop import train
from softtokens.train.objective import TermWeights
from softtokens.train.scoring import by_function
from softtokens.types import UserError

QUESTIONS = ["Tom has 4 apples.", "3 Tom", "Tom has 12 apples. so.", "so. 12", "apples", "User has 4."]


@pytest.fixture(scope="session")
def model_folder(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_policy("llama-untied").save(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": str(i)}) + "\n" for i, q in enumerate(QUESTIONS)))
    return file


@pytest.fixture
def make_config(model_folder, data_file):
    def make(kind=SignalConfig, **changes):
        task = TaskConfig(name=str(data_file), template="User: {question}", grader="exact")
        defaults = dict(
            model=str(model_folder), task=task, group_size=3, max_thought_steps=5, max_answer_tokens=4,
            thought=ThoughtConfig(mode="hard"), device="cpu",
        )  # fmt: skip
        return kind(**defaults | ({"batches": 3} if kind is SignalConfig else {}) | changes)

    return make


def by_length(completions, **columns):
    del columns
    return [float(len(completion)) for completion in completions]


def always(value):
    return lambda completions, **columns: [value] * len(completions)


def kept_gradients(monkeypatch) -> list[torch.Tensor]:
    """The vectors that measuring keeps, thought terms first."""
    kept = []

    def spy(vectors):
        kept.append(torch.stack(vectors))
        return gram_of(vectors)

    monkeypatch.setattr(measure, "gram_of", spy)
    return kept


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_the_weighted_terms_add_up_to_the_gradient_of_the_first_updates(make_config, tmp_path, monkeypatch, mode):
    followed = []

    def spy(trainee, norm, rate):
        del norm, rate
        followed.append(torch.cat([p.grad.flatten().clone() for p in trainee.parameters]))

    changes = {"thought": ThoughtConfig(mode=mode), "thought_weight": 0.5, "answer_weight": 2.0}
    monkeypatch.setattr(step_module, "apply_gradient", spy)  # the weights do not change
    config = make_config(TrainConfig, output=str(tmp_path / "run"), steps=3, validate_every=0, **changes)
    train(config, reward_func=by_length)
    kept = kept_gradients(monkeypatch)
    signal(make_config(**changes), reward_func=by_length)
    (vectors,) = kept
    thought, answer = vectors[:3], vectors[3:]
    expected = torch.stack(followed)
    assert (0.5 * thought + 2 * answer - expected).norm() < 1e-5 * expected.norm()


def test_the_sum_of_the_terms_has_the_gram_matrix_of_its_gradients():
    thought, answer = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = estimates(gram_of(torch.cat([thought, answer])), TermWeights(0.5, 2.0), rows=10)
    direct = estimates(gram_of(torch.cat([0.5 * thought + 2 * answer, answer])), TermWeights(1, 0), rows=10)
    assert dataclasses.astuple(made["sum"]) == pytest.approx(dataclasses.astuple(direct["thought"]))
    assert made["answer"] == direct["answer"]


def test_sketches_say_what_whole_gradients_say(make_config):
    whole, sketched = (
        signal(make_config(batches=4, sketch=size), reward_func=by_length).settings[0].terms for size in (None, 1 << 14)
    )
    for term, exact in whole.items():
        assert sketched[term].cosine == pytest.approx(exact.cosine, abs=0.02)
        assert sketched[term].norm == pytest.approx(exact.norm, rel=0.03)
        assert sketched[term].noise == pytest.approx(exact.noise, rel=0.05)


def test_sketches_of_the_terms_add_up_to_the_sketch_of_the_sum():
    first, second = torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
    keep = keeping(128, 500)
    torch.testing.assert_close(keep([first + second]), keep([first]) + keep([second]), rtol=1e-5, atol=1e-5)


def test_gradients_are_sketched_when_memory_does_not_hold_them():
    sizes = {"vectors": 16, "parameters": 10**9}
    assert sketch_size(None, room=64e9, **sizes) is None
    assert sketch_size(None, room=63e9, **sizes) == SKETCH
    assert sketch_size(4096, room=1e12, **sizes) == 4096
    with pytest.raises(UserError, match=r"memory is 0.001 GB, and 16 sketches of 1,048,576 numbers.*lower sketch"):
        sketch_size(None, room=1e6, **sizes)
    with pytest.raises(UserError, match=r"take 0\.000524 GB"):
        sketch_size(4096, room=1e5, **sizes)
    assert SMALLEST_SKETCH == sketch.SMALLEST


def test_settings_share_their_problems_and_differ_in_their_thoughts(make_config):
    config = make_config(thought=ThoughtConfig(), modes=("hard", "fuzzy"), taus=(1e-4, 0.1), gammas=(0.33, 1.0))
    settings = signal(config, reward_func=by_length).settings
    assert [(s.thought.mode, s.thought.temperature, s.thought.gamma) for s in settings] == [
        ("hard", 1.0, 0.33), ("fuzzy", 1e-4, 0.33), ("fuzzy", 1e-4, 1.0), ("fuzzy", 0.1, 0.33), ("fuzzy", 0.1, 1.0),
    ]  # fmt: skip
    assert len({s.terms["sum"].norm for s in settings}) == 5


def test_taus_go_to_soft_where_fuzzy_is_not_asked_for():
    modes = {"hard": 1.0, "soft": 0.5, "fuzzy": 1e-4}
    assert [s.temperature for s in SignalConfig(modes=tuple(modes)).settings] == list(modes.values())
    swept = SignalConfig(modes=tuple(modes), taus=(0.1, 0.2)).settings
    assert [(s.mode, s.temperature) for s in swept] == [("hard", 1.0), ("soft", 0.5), ("fuzzy", 0.1), ("fuzzy", 0.2)]
    assert [s.temperature for s in SignalConfig(modes=("hard", "soft"), taus=(0.1, 0.2)).settings] == [1.0, 0.1, 0.2]


def test_rewards_and_verdicts_are_those_of_the_rollouts(make_config):
    def first_of_group(completions, **columns):
        """Of two groups of three rollouts, only the first has rewards that differ."""
        del columns
        return [float(i == 0) for i in range(len(completions))]

    measured = signal(make_config(), reward_func=first_of_group).settings[0]
    assert (measured.spread, measured.solved) == (0.5, None)
    assert measured.reward == pytest.approx(1 / 6)
    assert measured.rewards == (0.0, 1.0)


def test_a_constant_reward_is_named(make_config):
    with pytest.raises(UserError, match="the reward is 7 for every rollout of 6 groups, so there is no gradient"):
        signal(make_config(), reward_func=always(7.0))
    with pytest.raises(UserError, match="the reward is 10 for every rollout"):
        signal(make_config(reward=RewardConfig(right=10.0, wrong=10.0, none=10.0)))


def test_a_task_without_spread_in_any_group_is_named(make_config):
    def by_problem(prompts, **columns):
        del columns
        return [float(len(prompt)) for prompt in prompts]

    with pytest.raises(UserError, match="none of 6 groups has rewards that differ"):
        signal(make_config(), reward_func=by_problem)


def test_one_setting_without_spread_does_not_stop_the_others(make_config):
    calls = []

    def flat_at_first(completions, **columns):
        calls.append(1)
        return by_length(completions, **columns) if len(calls) > 3 else [1.0] * len(completions)

    measured = signal(make_config(thought=ThoughtConfig(), modes=("soft", "hard")), reward_func=flat_at_first)
    flat, other = measured.settings
    assert sentence(measured, flat) == "no gradient: none of 6 groups has rewards that differ."
    assert other.spread > 0
    json.dumps(as_json(measured), allow_nan=False)


def test_problems_that_come_again_are_warned_of(make_config, caplog):
    signal(make_config(batches=4), reward_func=by_length)
    assert "the task has 6 problems for batches of 8 in all" in caplog.text
    caplog.clear()
    signal(make_config(batches=3), reward_func=by_length)
    assert "problems" not in caplog.text


def test_a_run_under_way_is_measured_at_its_checkpoint_on_its_next_batches(make_config, tmp_path, monkeypatch):
    config = make_config(TrainConfig, output=str(tmp_path / "run"), steps=2, validate_every=0, learning_rate=1e-2)
    train(config, reward_func=by_length)
    drawn = []
    collect = measure.collect

    def spy(trainee, step):
        drawn.append(step)
        return collect(trainee, step)

    monkeypatch.setattr(measure, "collect", spy)
    kept = kept_gradients(monkeypatch)
    signal(make_config(), reward_func=by_length)
    signal(make_config(start=f"{tmp_path / 'run'}@2"), reward_func=by_length)
    assert drawn == [0, 1, 2, 2, 3, 4]
    assert not torch.equal(kept[0][2], kept[1][0])  # the same batch under other weights


def test_a_gradient_that_is_not_finite_ends_it(make_config, monkeypatch):
    monkeypatch.setattr(measure, "keeping", lambda *sizes: lambda gradient: sum(g.sum() for g in gradient) * torch.inf)
    with pytest.raises(FloatingPointError, match="batch 1: the gradient of the thought term is not finite"):
        signal(make_config(), reward_func=by_length)


@pytest.mark.parametrize(
    ("e", "words"),
    [
        (
            dict(noise_scale=190.0, low=160.0, high=260.0),
            "signal equals noise at about 190 rollouts (95 %: 160 to 260); a step has 4, a run of 50 steps 200.",
        ),
        (
            dict(low=1900.0),
            "no signal was measurable with 16 rollouts: it equals noise at more than 1,900; a step has 4, a run",
        ),
        (dict(low=50.0, cosine=0.4), "there is signal (cosine +0.400 ±0.010), but a few long gradients hide how much"),
        (dict(), "no signal was measurable with 16 rollouts: too few of the batches have a gradient."),
        (dict(signal=0.0, noise=0.0), "no gradient: it is 0 in all 16 rollouts."),
    ],
)
def test_each_setting_ends_in_a_sentence(e, words):
    nothing = dict(
        norm=1.0, cosine=0.0, cosine_error=0.01, signal=1.0, noise=1.0, noise_scale=None, low=None, high=None
    )
    made = Measured(ThoughtConfig(), {"sum": Estimate(**nothing | e)}, 1.0, (0.0, 2.0), None, spread=0.5, seconds=1.0)
    measured = Signal(SignalConfig(batches=4, problems_per_step=2, group_size=2, steps=50), 10, None, [made])
    assert words in sentence(measured, made)


@pytest.mark.parametrize(
    ("count", "words"), [(0.0, "0"), (0.4, "0"), (3.2, "3"), (47.6, "48"), (340.0, "340"), (126_500.0, "130,000")]
)
def test_counts_of_rollouts_have_two_digits(count, words):
    assert rounded(count) == words


def test_the_command_shows_stores_and_reports(model_folder, data_file, tmp_path, capsys, monkeypatch):
    """Rewards are the lengths of texts, because a random model solves nothing."""
    monkeypatch.setattr(measure, "scorer", lambda config, judge, function, **columns: by_function(by_length))
    monkeypatch.setenv("COLUMNS", "80")
    output = tmp_path / "out"
    flags = ["signal", "--model", model_folder, "--task", data_file, "--template", "User: {question}", "--batches", 3]
    flags += ["--modes", "hard", "soft", "--group-size", 4, "--max-thought-steps", 5, "--max-answer-tokens", 4]
    flags += ["--device", "cpu", "--sketch", 256, "--output", output]
    assert cli.main([str(flag) for flag in flags]) == 0
    shown = capsys.readouterr().out
    assert "3 batches of 2 x 4 rollouts" in shown
    assert "sketched in 256 numbers" in " ".join(shown.split())
    stored = json.loads((output / FILE).read_text())
    assert [s["name"] for s in stored["settings"]] == ["hard", "soft, tau 0.5, gamma 0.33"]
    assert all(s["sentence"] in " ".join(shown.split()) for s in stored["settings"])

    assert cli.main([str(flag) for flag in flags]) == 2  # the folder is not empty
    assert cli.main([*(str(flag) for flag in flags[:-2]), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for ours, theirs in zip(printed["settings"], stored["settings"], strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}

    page = report(ReportConfig((str(output),))).read_text()
    section = re.search(r'<section id="signal">.*?</section>', page, flags=re.DOTALL)[0]
    assert all(s["sentence"] in section for s in stored["settings"])
    assert "Signal of the gradient" in section
