"""Tiny models with random weights, one of each supported architecture, and a small tokenizer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from softtokens.models.hf import HFPolicy

COMMON = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
EXTRA_ROWS = 7  # vocabulary rows that no token owns

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-untied": ("Llama", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "gemma3": ("Gemma3Text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
}


SHAPED = ["ops.mixture", "ops.random", "ops.reference", "ops.streamed", "ops.vocabulary", "thoughts"]
SHAPED += ["rollout.decode", "rollout.machine", "rollout.record", "rollout.replay", "train.objective"]


def checks_shapes(config) -> bool:
    return "not slow" in config.option.markexpr


def pytest_configure(config):
    """Every call of these modules checks the shapes that its annotations name, unless slow tests run too: some of them
    compile, and the compiler cannot follow the checks.

    They must not have been imported before, and the conftest.py of a folder is loaded before.
    """
    if checks_shapes(config):
        early = [module for module in SHAPED if f"softtokens.{module}" in sys.modules]
        assert not early, f"{early} must be imported inside the functions of a conftest.py, else shapes go unchecked"
        install_import_hook([f"softtokens.{module}" for module in SHAPED], "shape_checks.checked")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much when the other core is busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    text = ["The final answer is: \\boxed{12}", "so. The final answer is: 3", "Tom has 4 apples.", "User: Assistant:"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(text * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")


def build_model(family: str, vocab: int, *, seed: int = 0, logit_std: float = 2.0, dtype=torch.float32, **changes):
    """A random model whose logits have about the given standard deviation, so that distributions are not flat."""
    import transformers

    name, extra = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        **{
            **({} if name == "GPT2" else COMMON),
            "vocab_size": vocab,
            **({"tie_word_embeddings": True} | extra | changes),
        },
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model_name = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    model = getattr(transformers, model_name)(config).to(dtype)
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight.normal_(0, logit_std / 32**0.5)
    return model


@pytest.fixture(scope="session")
def make_policy(tokenizer):
    from softtokens.models.hf import HFPolicy

    def make(family: str = "llama", **changes) -> HFPolicy:
        return HFPolicy(build_model(family, len(tokenizer) + EXTRA_ROWS, **changes), tokenizer)

    return make


@pytest.fixture(scope="session")
def policy(make_policy):
    return make_policy()


@pytest.fixture(scope="session")
def prompts(tokenizer):
    texts = ["User: Tom has 4 apples. Assistant:", "User: 3", "Tom has 12 apples. so. User: final Assistant:"]
    return [tokenizer.encode(text) for text in texts]
