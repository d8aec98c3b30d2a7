import json

import numpy as np
import pytest
import torch

from softtokens.evaluate.preservation import load_texts, preservation
from softtokens.evaluate.results import read_results
from softtokens.evaluate.run import evaluate
from softtokens.types import UserError

TEXTS = ["Tom has 4 apples.", "so. The final answer is: 3", "User: 12 Assistant:", "The final answer is: \\boxed{12}"]


@pytest.fixture(scope="module")
def trained(make_policy):
    return make_policy("llama-untied", seed=1)


def test_by_hand(random_policy, trained):
    """transformers alone, float64, one text at a time; the mean over tokens, not over texts."""
    kls, agreements, nlls = [], [], []
    for text in TEXTS:
        ids = torch.tensor([random_policy.tokenizer.encode(text)])
        with torch.no_grad():
            p, q = (
                m.model(input_ids=ids).logits[0, :-1, : len(m.tokenizer)].double().log_softmax(-1)
                for m in (random_policy, trained)
            )
        kls += torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).tolist()
        agreements += (p.argmax(-1) == q.argmax(-1)).double().tolist()
        nlls += (p - q).gather(-1, ids[0, 1:, None])[:, 0].tolist()
    result = preservation(random_policy, trained, TEXTS, ("base", "trained"))
    assert (result["texts"], result["tokens"]) == (4, len(kls))
    assert result["kl_per_token"]["value"] == pytest.approx(np.mean(kls), rel=1e-4)
    assert result["top1_agreement"]["value"] == pytest.approx(np.mean(agreements))
    assert result["nll_difference"]["value"] == pytest.approx(np.mean(nlls), rel=1e-4)
    for name in ("kl_per_token", "top1_agreement", "nll_difference"):
        assert result[name]["low"] <= result[name]["value"] <= result[name]["high"]


def test_a_model_preserves_itself(random_policy):
    result = preservation(random_policy, random_policy, TEXTS, ("a", "b"))
    assert result["kl_per_token"]["value"] == pytest.approx(0.0, abs=1e-7)
    assert result["top1_agreement"]["value"] == 1.0
    assert result["nll_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_long_texts_are_cut_into_pieces(random_policy, trained):
    """256 positions: 300 and some tokens are two pieces, whose first tokens nothing predicts."""
    text = "Tom has 4 apples. " * 60
    tokens = len(random_policy.tokenizer.encode(text))
    result = preservation(random_policy, trained, [text, "3"], ("a", "b"))
    assert result["tokens"] == tokens - -(-tokens // 256)
    assert result["texts"] == 1  # "3" is a single token: nothing is predicted


def test_other_tokens_cannot_be_compared(random_policy, make_policy):
    from softtokens.models.hf import HFPolicy

    unmasked = HFPolicy(make_policy("llama-untied").model, random_policy.tokenizer, mask_unused=False)
    with pytest.raises(UserError, match="models 'a' and 'b' have different vocabularies"):
        preservation(random_policy, unmasked, TEXTS, ("a", "b"))


def test_texts_from_files(tmp_path):
    plain = tmp_path / "texts.txt"
    plain.write_text("one\n\n  two  \n")
    assert load_texts(str(plain)) == ["one", "two"]
    rows = tmp_path / "texts.jsonl"
    rows.write_text('{"text": "one"}\n{"text": "two\\nlines"}\n')
    assert load_texts(str(rows)) == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "contains no text; put one on each line"),
        ("t.txt", b"\n \n", "contains no text"),
        ("t.txt", b"\xff\xfe", "cannot be read as a text file"),
        ("t.jsonl", b"", "holds no rows"),
        ("t.jsonl", b'{"body": "x"}', "'text' is missing or null"),
    ],
)
def test_texts_that_are_not(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_texts(str(tmp_path / name))


def test_in_the_matrix(config_for, model_folder, other_folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    options = {"texts": str(texts), "settings": ("hard-greedy",), "models": (f"a={model_folder}", f"b={other_folder}")}
    root = evaluate(config_for(**options))
    file = root / "preservation/b.json"
    assert json.loads(file.read_text())["base"] == "a"
    assert not (root / "preservation/a.json").exists()
    before = file.stat().st_mtime_ns
    evaluate(config_for(**options))
    assert file.stat().st_mtime_ns == before
    evaluate(config_for(base="b", **options))
    assert json.loads((root / "preservation/a.json").read_text())["base"] == "b"
    texts.write_text("other texts")
    with pytest.raises(UserError, match=r"a\.json was made from other"):
        evaluate(config_for(**options))
    for wrong, message in (
        ({"base": "c"}, "base is 'c', which is not one of the models: a, b"),
        ({}, "only one model"),
    ):
        models = options["models"] if wrong else options["models"][:1]
        with pytest.raises(UserError, match=message):
            evaluate(config_for(**options | {"models": models} | wrong))


def test_other_texts_for_another_model_are_refused_at_once(config_for, model_folder, other_folder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("Tom has 4 apples.\n")
    options = {"settings": ("hard-greedy",), "texts": str(file)}
    root = evaluate(config_for(models=(f"a={model_folder}", f"b={other_folder}"), **options))
    file.write_text("Tom has 12 apples.\n")
    with pytest.raises(UserError, match="was made from other items"):
        evaluate(config_for(models=(f"a={model_folder}", f"third={other_folder}"), **options))
    assert "third" not in read_results(root).models
