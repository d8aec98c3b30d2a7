"""lm-eval with our policy, on a task of its own that reads a local file, without network."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs the extra harness")

from softtokens.evaluate.harness import Harness, adapter_of
from softtokens.evaluate.nll import score_choices
from softtokens.evaluate.run import evaluate
from softtokens.tasks import load_choice_items
from softtokens.types import UserError

ROWS = [
    {"question": "Tom has", "choices": ["4 apples.", "12", "so. The final answer"], "answer": 0},
    {"question": "User: 3", "choices": ["apples.", "answer is: 12"], "answer": 1},
    {"question": "The final answer is:", "choices": ["3", "12", "4", "Tom has 12 apples."], "answer": 2},
    {"question": "so.", "choices": ["4", "12 apples"], "answer": 1},
]
YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {output}
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""

pytestmark = pytest.mark.filterwarnings("ignore")  # raised by lm-eval


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


@pytest.fixture
def tasks(tmp_path):
    """A folder with two tasks, and the file that they read."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(YAML.format(name="mine", file=file, output="multiple_choice"))
    (folder / "spoken.yaml").write_text(YAML.format(name="spoken", file=file, output="generate_until"))
    return folder, file


def test_the_two_scorers_agree_on_a_shared_task(random_policy, tasks):
    folder, file = tasks
    ours = score_choices(random_policy, load_choice_items(str(file), template="{question}"))
    theirs = Harness(["mine"], str(folder)).score(random_policy, "m", "mine", limit=None)
    assert theirs["items"] == len(ROWS)
    assert theirs["per_item"]["correct"] == ours.correct.astype(int).tolist()
    assert theirs["per_item"]["correct_normalized"] == ours.correct_normalized.astype(int).tolist()
    np.testing.assert_allclose(theirs["per_item"]["nll_per_token"], ours.nll_per_token, rtol=1e-5)
    reported = theirs["lm_eval"]["results"]["mine"]
    assert reported["acc,none"] == pytest.approx(theirs["accuracy"]["value"])
    assert reported["acc_norm,none"] == pytest.approx(theirs["accuracy_normalized"]["value"])
    assert 0 < theirs["accuracy"]["value"] < 1  # otherwise agreement means little


def test_it_agrees_with_lm_evals_own_model(make_policy, tokenizer, tasks):
    """The same requests to lm-eval's HFLM, which runs transformers itself."""
    from lm_eval.models.huggingface import HFLM

    from softtokens.models.hf import HFPolicy

    policy = HFPolicy(make_policy("llama-untied").model, tokenizer, mask_unused=False)  # HFLM masks nothing
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (row["question"], " " + choice), i)
        for i, row in enumerate(ROWS)
        for choice in row["choices"]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HFLM(pretrained=policy.model, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=256)
        expected = theirs.loglikelihood(requests, disable_tqdm=True)
    scores = adapter_of(policy).loglikelihood(requests)
    np.testing.assert_allclose([x for x, _ in scores], [x for x, _ in expected], rtol=1e-5)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]


def test_in_the_matrix(config_for, tasks, tmp_path):
    folder, file = tasks
    options = {"settings": ("hard-greedy",), "harness": ("mine",), "harness_tasks": str(folder)}
    root = evaluate(config_for(choices=(f"local={file}",), choices_limit=3, **options))
    written = json.loads((root / "choices/random/mine.json").read_text())
    assert (written["source"], written["items"]) == ("lm-eval", 3)
    assert json.loads((root / "choices/random/local.json").read_text())["items"] == 3
    before = (root / "choices/random/mine.json").stat().st_mtime_ns
    evaluate(config_for(choices_limit=3, **options))
    assert (root / "choices/random/mine.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"mine\.json was made from other items"):
        evaluate(config_for(choices_limit=2, **options))
    with pytest.raises(UserError, match="would both be named 'mine'"):
        evaluate(config_for(choices=(f"mine={file}",), **options))


def test_long_contexts_lose_their_beginning(random_policy, tasks):
    """256 positions; lm-eval cuts from the left as well."""
    from lm_eval.api.instance import Instance

    lm = adapter_of(random_policy)
    long = "Tom has 4 apples. " * 60
    ids, continuation = lm._encode_pair(long + "so.", " 12")
    request = Instance("loglikelihood", {}, (long + "so.", " 12"), 0)
    (scores,) = lm.loglikelihood([request])
    kept = ids[-(256 - len(continuation)) :]
    ((expected, _),) = lm._loglikelihood_tokens([(None, kept, continuation)])
    assert scores[0] == pytest.approx(expected)


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_have():
    with pytest.raises(UserError, match="harness is 'no_such_task', which is not an lm-eval task"):
        Harness(["hellaswag", "no_such_task"])


def test_what_is_refused(random_policy, tasks):
    folder, _ = tasks
    harness = Harness(["spoken"], str(folder))
    with pytest.raises(UserError, match="lm-eval tasks that generate text are not supported"):
        harness.score(random_policy, "m", "spoken", limit=None)


def test_without_the_extra(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'softtokens\[harness\]'"):
        Harness(["hellaswag"])
