"""The warm start learns what it should from GSM8K's rows, and only from what follows the prompt."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from softtokens.models.files import tiny_checkpoint

SOLUTION = "Tom has 3*4=<<3*4=12>>12 trees\nSo he picks 12*5 = <<12*5=60>>60 apples."
OWN_FORM = {"question": "How many?", "answer": f"{SOLUTION}\n#### 1,060"}
TAKEN_APART = {"question": "How many?", "solution": SOLUTION, "answer": "1060"}

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sft(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from recipes.smollm2 import sft

    return sft


@pytest.mark.parametrize("row", [OWN_FORM, TAKEN_APART])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_read_in_both_forms(sft, tmp_path, row, name):
    text = f"{json.dumps(row)}\n\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (read,) = sft.read_rows(tmp_path / name)
    assert read == row
    assert sft.chain_and_answer(read) == ("Tom has 3*4=12 trees. So he picks 12*5 = 60 apples.", "1060")


def test_a_row_without_an_answer_is_named(sft, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{json.dumps(OWN_FORM)}\n{{"question": "How many?"}}\n')
    with pytest.raises(ValueError, match="row 2 has no question or no answer"):
        sft.read_rows(path)


@pytest.mark.parametrize(
    ("question", "answer", "equation"),
    [
        ("Tom has 57 apples and eats 22. How many are left?", "35", "57 - 22 = 35."),
        ("Tom has 22 apples and buys 1,057.", "1079", "22 + 1057 = 1079."),
        ("Tom fills 6 bags with 48 apples.", "8", "48 / 6 = 8."),
        ("Tom has 2 apples and buys 2.", "4", None),  # 2 + 2 or 2 * 2
        ("Tom has 2 apples, 3 pears and 4 plums.", "9", None),
        ("Tom has 5 apples.", "5", None),
        ("Tom has 3 of 4 apples.", "3/4", None),
        ("Tom has 0 of 4 apples.", "0", None),  # 0 * 4 or 0 / 4
    ],
)
def test_a_row_without_a_solution_gets_the_equation_that_its_numbers_allow(sft, question, answer, equation):
    written = sft.chain_and_answer({"question": question, "answer": answer})
    assert written == (None if equation is None else (equation, answer))


def test_documents_end_in_the_box_and_long_ones_are_skipped(sft):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint())
    unsolvable = {"question": "How many?", "answer": "3"}
    long = TAKEN_APART | {"solution": SOLUTION * 9}
    (made,) = sft.documents([TAKEN_APART, unsolvable, long], "User: {question}\nAssistant:", tokenizer, 100)
    assert made["prompt"] == "User: How many?\nAssistant:"
    chain = "Tom has 3*4=12 trees. So he picks 12*5 = 60 apples."
    assert made["completion"] == f"{chain} The final answer is: \\boxed{{1060}}{tokenizer.eos_token}"


def test_the_loss_is_that_of_the_completions_alone_whatever_the_padding(sft):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint())
    documents = [([5, 6, 7], [8, 9, 10, 11]), ([12] * 9, [13, 14])]
    log_probs = []
    for prompt, completion in documents:
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        log_probs += logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).flatten().tolist()
    expected = -sum(log_probs) / len(log_probs)
    assert float(sft.completion_loss(model, sft.batch(documents)).detach()) == pytest.approx(expected, rel=1e-4)


def test_a_stopped_warm_start_goes_on_and_learns(sft, monkeypatch, tmp_path):
    rows, rest, out = tmp_path / "rows.jsonl", tmp_path / "rest.jsonl", tmp_path / "warm"
    rows.write_text(f"{json.dumps(TAKEN_APART)}\n" * 32)
    flags = [
        "--model",
        str(tiny_checkpoint()),
        "--rows",
        str(rows),
        "--out",
        str(out),
        "--longest",
        "100",
        "--hold-out",
        str(rest),
    ]
    monkeypatch.setattr(
        sys, "argv", ["sft", *flags, "--batch", "4", "--epochs", "3", "--save-every", "4", "--rate", "1e-3"]
    )
    whole, calls = sft.completion_loss, []

    def stops(model, inputs):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(model, inputs)

    monkeypatch.setattr(sft, "completion_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        sft.main()
    sft.main()
    assert len(rest.read_text().splitlines()) == 16
    assert len(calls) == 6 + 8  # 12 updates; the fifth was lost with the interrupted sixth
    document = [([5] * 4, AutoTokenizer.from_pretrained(out).encode("Tom has 3*4=12 trees."))]
    losses = [
        float(whole(AutoModelForCausalLM.from_pretrained(folder), sft.batch(document)).detach())
        for folder in (tiny_checkpoint(), out)
    ]
    assert losses[1] < losses[0]
    assert not (tmp_path / "warm.unfinished").exists()
