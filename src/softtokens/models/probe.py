"""Find out by experiment how a model turns embeddings into logits, and refuse models that cannot be driven by
embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from softtokens.models.kv import SlotKV
from softtokens.models.policy import Policy
from softtokens.ops.vocabulary import Vocabulary, full_precision
from softtokens.types import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@torch.no_grad()
def probe(model: PreTrainedModel, tokens: int) -> dict:
    """How the model turns table rows into inputs and hidden states into logits, found by trying.

    Returns the keyword arguments of `Vocabulary`; refuses models for which embeddings in and hidden states out do not
    determine the logits.
    """
    name = type(model).__name__
    config = model.config.get_text_config()
    module, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(config, "is_encoder_decoder", False) or head is None or not isinstance(module, nn.Embedding):
        raise UserError(f"{name} has no plain input embedding and output head, so thoughts cannot be fed to it")
    table = module.weight
    if head.weight.shape != table.shape:
        raise UserError(
            f"{name} has an input table of shape {tuple(table.shape)} and a head of shape {tuple(head.weight.shape)}; "
            "a mixture of embeddings weighted by the head's probabilities needs the same shape"
        )
    ids = torch.linspace(0, min(tokens, table.shape[0]) - 1, steps=8, device=table.device).long()[None]
    rows = full_precision(table[ids[0]])
    fed = full_precision(module(ids)[0])
    scale = float((fed * rows).sum() / rows.square().sum().clamp_min(1e-30))
    if not torch.allclose(fed, scale * rows, rtol=2e-2, atol=1e-2 * float(fed.abs().max())):
        raise UserError(
            f"{name} changes its token embeddings by more than a constant factor, so thoughts cannot be fed to it"
        )

    try:
        expected = model(input_ids=ids).logits[0]
        hidden = model.base_model(inputs_embeds=module(ids), use_cache=False).last_hidden_state[0]
    except Exception as error:
        raise UserError(f"{name} cannot take embeddings as input: {first_line(error)}") from error
    if expected.isnan().any() or (expected == torch.inf).any():
        raise UserError(
            f"{name} gives logits that are not finite, though its weights are; some are so large that {model.dtype} "
            "overflows. Use an earlier checkpoint, or a wider dtype."
        )
    tolerance = 2e-2 if model.dtype in (torch.bfloat16, torch.float16) else 1e-4
    for transform in _logit_transforms(config):
        vocabulary = Vocabulary(head.weight, table, table.shape[0], head.bias, **transform)
        difference = (vocabulary.logits(hidden) - full_precision(expected)).abs().max()
        if difference <= tolerance * (1 + full_precision(expected).abs().max()):
            return {**transform, "table_scale": _round_if_one(scale)}
    raise UserError(
        f"{name} gives other logits when fed embeddings instead of token ids (it may need the ids in deeper layers, or "
        "transform its logits in an unknown way), so thoughts cannot be fed to it"
    )


def _logit_transforms(config: PreTrainedConfig) -> list[dict]:
    transforms: list[dict] = [{}]
    if getattr(config, "final_logit_softcapping", None):
        transforms.append({"softcap": float(config.final_logit_softcapping)})
    if getattr(config, "logit_scale", None):
        transforms.append({"logit_scale": float(config.logit_scale)})
    if getattr(config, "logits_scaling", None):
        transforms.append({"logit_scale": 1.0 / float(config.logits_scaling)})
    return transforms


def _round_if_one(scale: float) -> float:
    return 1.0 if abs(scale - 1.0) < 1e-6 else scale


_PROMPT_LENGTHS, _STEPS = (3, 6), 3


@torch.no_grad()
def require_same_decoding(policy: Policy, name: str) -> None:
    """Refuse a model whose hidden states differ between step-by-step decoding with the cache and the whole sequence.

    Some architectures keep no keys and values, read positions from the cache, or use their own attention code.
    """
    vocabulary = policy.vocabulary
    table = vocabulary.table
    fed = vocabulary.embed(torch.arange(_STEPS * len(_PROMPT_LENGTHS), device=table.device) % vocabulary.size)
    fed = fed.view(len(_PROMPT_LENGTHS), _STEPS, -1)
    prompts = [[i % vocabulary.size for i in range(length)] for length in _PROMPT_LENGTHS]
    try:
        stepwise = _stepwise(policy, prompts, fed)
        whole = [
            policy.hidden_states(torch.cat((vocabulary.embed(torch.tensor(prompt, device=table.device)), row))[None])[0]
            for prompt, row in zip(prompts, fed, strict=True)
        ]
    except Exception as error:
        raise UserError(f"{name} cannot be decoded step by step with our cache: {first_line(error)}") from error
    errors = []
    for row, (prompt, expected) in enumerate(zip(prompts, whole, strict=True)):
        expected = full_precision(expected[len(prompt) - 1 :])
        errors.append((full_precision(stepwise[row]) - expected).abs().amax(-1) / expected.abs().max())
    error = torch.cat(errors)
    # In half precision, rounding alone may move a single position far: a trained SmolLM2 differed by 35 % at one and by
    # at most 5 % at the others. A wrong cache shows at most positions.
    half = table.dtype in (torch.bfloat16, torch.float16)
    judged, tolerance = (error.median(), 5e-2) if half else (error.max(), 1e-3)
    if not judged <= tolerance:
        raise UserError(
            f"{name} gives other hidden states when it decodes step by step from our cache than for the whole sequence "
            f"(by {100 * float(judged):.2g} %)"
        )


@torch.no_grad()
def require_same_logits(policy: Policy, model: PreTrainedModel, name: str) -> None:
    """Refuse the policy's model if, run as rollouts run it, it gives other logits than transformers alone."""
    vocabulary = policy.vocabulary
    ids = (torch.arange(12, device=policy.device) * 7 % vocabulary.size)[None]
    expected = vocabulary.of_tokens(full_precision(model(input_ids=ids).logits[0]))
    logits = vocabulary.of_tokens(vocabulary.logits(policy.hidden_states(vocabulary.embed(ids))[0]))
    tolerance = 5e-2 if vocabulary.table.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not (logits - expected).abs().max() <= tolerance * expected.abs().max():
        raise UserError(f"{name} gives other logits when positions are given with the embeddings")


def _stepwise(policy: Policy, prompts: list[list[int]], fed: Tensor) -> Tensor:
    states = policy.prompt_states(prompts)
    rows = torch.arange(len(prompts), device=states.lengths.device)
    kv = SlotKV(len(prompts), max(_PROMPT_LENGTHS) + _STEPS)
    kv.fill(rows, states, rows)
    hidden = [states.hidden]
    for step in range(_STEPS):
        hidden.append(policy.step(fed[:, step], states.lengths + step, kv, max(_PROMPT_LENGTHS) + step + 1))
    return torch.stack(hidden, dim=1)
