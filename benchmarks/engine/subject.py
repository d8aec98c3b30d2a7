"""What is measured: a random Llama of a few layers that never ends a text, and settings of all sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from softtokens.endings import PAPER
from softtokens.models.files import tiny_checkpoint
from softtokens.models.hf import HFPolicy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits, forced_texts
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Gaussian, Hard, Thought

ANSWER_TOKENS = 4
SIGMA = 0.033  # 0.33 of the random table's root mean square
THOUGHTS: dict[str, Thought] = {"hard": Hard(), "soft": Gaussian(0.5, SIGMA), "fuzzy": Gaussian(1e-4, SIGMA)}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large and how often; `dry` is for trying out that everything runs."""

    dim: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    vocabularies: tuple[int, ...] = (512, 32_000)
    problems: int = 2
    group: int = 32
    prompt: int = 32
    tokens: int = 64  # emitted per rollout: thoughts, forced text and answer
    rounds: int = 5
    slow_rounds: int = 2  # of what takes ten seconds and more
    compiles: bool = True
    streamed: tuple[tuple[int, int, int], ...] = ((2048, 256, 32_000), (1024, 1024, 32_000))  # rows x dim x vocab
    replay: tuple[int, int, int, int] = (64, 512, 128_256, 512)  # rollouts, thoughts, vocab, dim
    naive_rollouts: int = 2  # of these as many as fit in memory when logits are kept
    growth: dict[str, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {
            "thoughts": (32, 64, 128, 256),
            "group": (8, 16, 32, 64),
            "vocabulary": (4_000, 8_000, 16_000, 32_000),
            "problems": (1, 2, 4, 8),
        }
    )

    @property
    def rows(self) -> int:
        return self.problems * self.group


DRY = Sizes(
    dim=32,
    layers=1,
    heads=4,
    kv_heads=2,
    vocabularies=(512,),
    group=4,
    prompt=8,
    tokens=16,
    rounds=1,
    slow_rounds=1,
    compiles=False,
    streamed=((64, 16, 512),),
    replay=(4, 16, 2_048, 32),
    naive_rollouts=2,
    growth={
        "thoughts": (4, 8, 12, 16),
        "group": (2, 3, 4, 5),
        "vocabulary": (512, 600, 700, 800),
        "problems": (1, 2, 3, 4),
    },
)
SIZES = {
    "full": Sizes(),
    "quick": dataclasses.replace(Sizes(), rounds=3, slow_rounds=1, replay=(8, 512, 128_256, 512)),
    "dry": DRY,
}


def model_of(sizes: Sizes, vocabulary: int, *, tied: bool = True) -> LlamaForCausalLM:
    """The same weights at every call. The layers say more than the embedding that passes them by: else, with a tied
    head, every token would only ever predict itself."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.dim,
        intermediate_size=sizes.dim * 11 // 4,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.1)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 10
            layer.mlp.down_proj.weight *= 10
    return model


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint())


def policy_of(model: LlamaForCausalLM) -> HFPolicy:
    """Every row of the vocabulary counts, and no token ends a text."""
    policy = HFPolicy(model, tokenizer(), mask_unused=False)
    policy.eos_ids = frozenset()
    return policy


def decoder_of(model: LlamaForCausalLM, *, compiles: bool) -> Decoder:
    return Decoder(policy_of(model)).prepare("compiled" if compiles else "plain", 1)


def limits_of(policy: HFPolicy, tokens: int) -> Limits:
    """Rollouts of that many tokens in all: what is neither forced nor answer is thought."""
    forced = forced_texts(policy.tokenizer, policy.device, PAPER).longest
    return Limits(max(1, tokens - forced - ANSWER_TOKENS), ANSWER_TOKENS)


def prompts_of(sizes: Sizes) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, 500, (sizes.problems, sizes.prompt), generator=generator).tolist()


def roll(decoder: Decoder, thought: Thought, sizes: Sizes) -> Rollout:
    """One batch, the same at every call."""
    prompt_of_row = [p for p in range(sizes.problems) for _ in range(sizes.group)]
    keys = Keys(0, torch.tensor(prompt_of_row), torch.arange(sizes.group).repeat(sizes.problems))
    limits = limits_of(decoder.policy, sizes.tokens)
    return sample_rollout(decoder.policy, thought, prompts_of(sizes), prompt_of_row, keys, limits, decoder=decoder)


def emitted(rollout: Rollout) -> int:
    return int((rollout.lengths - rollout.prompt_lengths).sum())


def repeated_prompts(sizes: Sizes) -> Tensor:
    return torch.tensor(prompts_of(sizes)).repeat_interleave(sizes.group, 0)
