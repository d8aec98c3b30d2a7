"""Training runs in processes of their own, on random models of chosen sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.engine.subject import Sizes, model_of, tokenizer

# Random models get no reward and waste no time on validation. Compiled steps would add the compiler's own memory.
FLAGS = ["--task", "arithmetic", "--no-mask-unused", "--validate-every", "0", "--warmup-steps", "0"]
FLAGS += ["--decoding", "plain", "--problems-per-step", "2"]


def random_model(folder: Path, *, dim: int, layers: int, vocabulary: int, tied: bool = True) -> str:
    """A folder with a Llama of that size and the tiny model's tokenizer, made once."""
    path = folder / f"d{dim}-l{layers}-v{vocabulary}-{'tied' if tied else 'untied'}"
    if not path.exists():
        sizes = Sizes(dim=dim, layers=layers, heads=dim // 32, kv_heads=dim // 64)
        model_of(sizes, vocabulary, tied=tied).save_pretrained(path)
        tokenizer().save_pretrained(path)
    return str(path)


def trained(flags: list[str], output: Path, *, processes: int = 1, threads: int = 1) -> list[dict]:
    """The metrics of every step."""
    program = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] * (processes > 1)
    command = [sys.executable, "-m", *program, "softtokens.cli", "train", *flags, "--output", str(output)]
    _run(command, threads)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def planned(flags: list[str], *, processes: int = 1) -> dict:
    """What `softtokens plan` says of the same flags, on this machine."""
    command = [sys.executable, "-m", "softtokens.cli", "plan", *flags, "--processes", str(processes), "--json"]
    return json.loads(_run(command, 1))


def _run(command: list[str], threads: int) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exits with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
