r"""Warm start: teaches the answer format and short chains by supervised fine-tuning.

    python recipes/smollm2/sft.py --model runs/smollm2/base --rows mawps-train.jsonl \
        --hold-out runs/smollm2/mawps-rl.jsonl --out runs/smollm2/warm

Reinforcement learning needs a model that is right now and then. Each document is the prompt of train.toml, a chain, and
"The final answer is: \boxed{...}"; only what follows the prompt is learned. The chain is the row's own solution where
it has one (GSM8K), without calculator marks and on one line. Otherwise (MAWPS) it is the one equation of two numbers of
the question that gives the answer; rows without one, or with several, are skipped. The trainer of transformers does the
work. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import operator
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

SETTINGS = Path(__file__).with_name("train.toml")
MARK = re.compile(r"<<[^>]*>>")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the folder that prepare.py wrote")
    parser.add_argument(
        "--rows", type=Path, required=True, help="jsonl or jsonl.gz with question, answer (and solution)"
    )
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--longest", type=int, default=40, help="skip chains of more tokens than this")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate")
    parser.add_argument("--batch", type=int, default=16, help="documents per update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=25, help="updates; a stopped run goes on from there")
    parser.add_argument("--float32", action="store_true", help="compute in float32: slower on most hardware")
    parser.add_argument("--hold-out", type=Path, help="write every second row to this file instead of learning from it")
    arguments = parser.parse_args()
    try:
        rows = read_rows(arguments.rows)
    except (OSError, ValueError) as error:
        sys.exit(f"sft: --rows is {arguments.rows}, which cannot be read: {error}")
    if arguments.hold_out is not None:
        arguments.hold_out.parent.mkdir(parents=True, exist_ok=True)
        arguments.hold_out.write_text("".join(f"{json.dumps(row)}\n" for row in rows[1::2]))
        rows = rows[::2]
    warm_start(rows, arguments)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a jsonl or jsonl.gz file, with `question` and `answer`. ValueError where one of them is missing."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    for number, row in enumerate(rows, 1):
        if not (row.get("question") and row.get("answer")):
            raise ValueError(f"row {number} has no question or no answer")
    if not rows:
        raise ValueError("it holds no rows")
    return rows


def chain_and_answer(row: dict[str, str]) -> tuple[str, str] | None:
    """What the model should write before and inside the box; None for a row that says too little."""
    solution, mark, answer = row["answer"].rpartition("####")  # GSM8K's own form
    if not mark:
        solution, answer = row.get("solution", ""), row["answer"]
    answer = answer.strip().replace(",", "")
    chain = one_line(solution) if solution else equation(row["question"], answer)
    return (chain, answer) if chain else None


def one_line(solution: str) -> str:
    """Sentences, each with an end mark, and no calculator marks."""
    lines = [line.strip() for line in MARK.sub("", solution).splitlines() if line.strip()]
    return " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines)


def equation(question: str, answer: str) -> str | None:
    """The equation of two numbers of the question that gives the answer; None unless there is exactly one."""
    if not NUMBER.fullmatch(answer):
        return None
    numbers = NUMBER.findall(question.replace(",", ""))
    equations = {}
    for (i, left), (j, right) in itertools.permutations(enumerate(numbers), 2):
        for sign, calculate in OPERATIONS.items():
            if (sign in "+*" and i > j) or (sign == "/" and float(right) == 0):
                continue
            if math.isclose(calculate(float(left), float(right)), float(answer), abs_tol=1e-6):
                equations[f"{left} {sign} {right} = {answer}."] = None
    return next(iter(equations)) if len(equations) == 1 else None


def documents(rows: list[dict[str, str]], template: str, tokenizer: Any, longest: int) -> list[dict[str, str]]:
    """Prompt and completion of every row whose chain has at most `longest` tokens."""
    made = []
    for row in rows:
        written = chain_and_answer(row)
        if written is None or len(tokenizer.encode(written[0])) > longest:
            continue
        chain, answer = written
        ending = f" The final answer is: \\boxed{{{answer}}}{tokenizer.eos_token}"
        made.append({"prompt": template.replace("{question}", row["question"]), "completion": chain + ending})
    return made


def warm_start(rows: list[dict[str, str]], arguments: argparse.Namespace) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
    from transformers.modeling_outputs import CausalLMOutput
    from transformers.trainer_utils import get_last_checkpoint

    template = tomllib.loads(SETTINGS.read_text())["task"]["template"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    made = documents(rows, template, tokenizer, arguments.longest)
    if len(made) < arguments.batch:
        sys.exit(
            f"sft: {len(made)} of {len(rows)} rows have a chain of at most {arguments.longest} tokens; raise --longest"
        )
    print(f"{len(made):,} of {len(rows):,} rows have a chain of at most {arguments.longest} tokens")

    class OnCompletions(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            del num_items_in_batch
            loss = completion_loss(model, inputs)
            return (loss, CausalLMOutput(loss=loss)) if return_outputs else loss

    unfinished = Path(f"{arguments.out}.unfinished")
    on_cpu = not torch.cuda.is_available()
    settings = TrainingArguments(
        output_dir=str(unfinished),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch,
        learning_rate=arguments.rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        seed=arguments.seed,
        bf16=not arguments.float32,
        use_cpu=on_cpu,
        remove_unused_columns=False,
        logging_steps=5,
        save_steps=arguments.save_every,
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=not on_cpu,
    )
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    encoded = [(tokenizer.encode(one["prompt"]), tokenizer.encode(one["completion"])) for one in made]
    trainer = OnCompletions(model, settings, train_dataset=encoded, data_collator=batch)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(unfinished) if unfinished.is_dir() else None)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    shutil.rmtree(unfinished, ignore_errors=True)
    print(f"model folder: {arguments.out}")


def completion_loss(model: Any, inputs: dict[str, Any]) -> Any:
    """Mean cross-entropy of the labelled tokens. Logits are computed for the last positions alone: over 49,152 tokens
    they cost half of a pass on a CPU."""
    import torch

    labels = inputs["labels"]
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    logits = model(**rest, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def batch(documents: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Documents padded on the left, so that all end together; labels of as many last positions as the longest
    completion has, -100 where there is nothing to learn."""
    import torch

    longest = max(len(prompt) + len(completion) for prompt, completion in documents)
    labelled = max(len(completion) for _, completion in documents)
    ids, attended, labels = [], [], []
    for prompt, completion in documents:
        padding = longest - len(prompt) - len(completion)
        ids.append([0] * padding + prompt + completion)
        attended.append([0] * padding + [1] * (longest - padding))
        labels.append([-100] * (labelled - len(completion)) + completion)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(attended), "labels": torch.tensor(labels)}


if __name__ == "__main__":
    main()
