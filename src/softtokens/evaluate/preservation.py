"""How much of the base is preserved: KL(base || trained), top-1 agreement and NLL difference on given texts, per
token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softtokens.evaluate.folder import SCHEMA
from softtokens.evaluate.intervals import estimate
from softtokens.files import expanded
from softtokens.models.hf import HFPolicy
from softtokens.models.tokens import prompt_ids
from softtokens.ops import streamed
from softtokens.tasks.files import ENDINGS, load_rows, text_at
from softtokens.types import UserError

_SHARES = ("top1_agreement",)


def load_texts(source: str) -> list[str]:
    """The lines of a text file that are not empty, or column `text` of a data file. UserError when there is none."""
    path = Path(expanded(source))
    if path.name.lower().endswith(ENDINGS):
        rows = load_rows(source)
        return [text_at(row, "text", where=f"{source}, row {i}") for i, row in enumerate(rows)]
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"texts is {source!r}, which cannot be read as a text file: {error}") from error
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"texts is {source!r}, which contains no text; put one on each line")
    return texts


def encoded_texts(policy: HFPolicy, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each. UserError for one that cannot be fed."""
    return prompt_ids(policy, ((f"text {i} (the first is text 0)", text) for i, text in enumerate(texts)))


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def require_same_tokens(base: HFPolicy, other: HFPolicy, names: tuple[str, str]) -> None:
    """UserError unless the two models' distributions are over the same tokens."""
    if base.tokenizer.get_vocab() != other.tokenizer.get_vocab() or base.vocabulary.size != other.vocabulary.size:
        raise UserError(
            f"models {names[0]!r} and {names[1]!r} have different vocabularies, so their distributions cannot be "
            "compared; drop one of them, or --texts"
        )


@torch.no_grad()
def preservation(base: HFPolicy, trained: HFPolicy, texts: Sequence[str], names: tuple[str, str]) -> dict[str, Any]:
    """The content of preservation/MODEL.json (docs/evaluation.md). names: of base and trained.

    Texts longer than the context are cut into pieces that fit. Means are over tokens; intervals by resampling texts.
    Both models are in memory at once, with the activations of one text, and a few chunks of logits.
    """
    require_same_tokens(base, trained, names)
    context = min(base.context_length, trained.context_length)
    sums: dict[str, list[float]] = {"kl_per_token": [], "top1_agreement": [], "nll_difference": []}
    tokens = []
    for ids in encoded_texts(base, texts):
        pieces = [ids[start : start + context] for start in range(0, len(ids), context)]
        pieces = [piece for piece in pieces if len(piece) > 1]  # nothing predicts the first token of a piece
        if pieces:
            columns = torch.cat([_token_columns(base, trained, piece) for piece in pieces], dim=1)
            tokens.append(columns.shape[1])
            for name, total in zip(sums, columns.double().sum(dim=1).tolist(), strict=True):
                sums[name].append(total)
    if not tokens:
        raise UserError("no text has two tokens or more, so there is no token to predict")
    weights = np.array(tokens, dtype=np.float64)
    return {
        "schema": SCHEMA,
        "base": names[0],
        "model": names[1],
        "texts": len(tokens),
        "tokens": int(weights.sum()),
        **{name: estimate(np.array(total) / weights, weights, shares=name in _SHARES) for name, total in sums.items()},
        "sha256": digest(texts),
    }


def _token_columns(base: HFPolicy, trained: HFPolicy, ids: list[int]) -> Tensor:
    """float32 [3, tokens - 1]: KL(base || trained) in nats, whether the likeliest tokens agree, NLL of the token under
    trained minus under base."""
    hidden = []
    for policy in (base, trained):
        inputs = policy.vocabulary.embed(torch.tensor([ids], device=policy.device))
        hidden.append(policy.hidden_states(inputs)[0, :-1])
    # logits cover real tokens only, so targets are indices into those
    following = torch.searchsorted(base.vocabulary.tokens, torch.tensor(ids[1:], device=base.device))
    rows = streamed.default_chunk_rows(base.vocabulary)
    columns = []
    for start in range(0, len(following), rows):
        part = slice(start, start + rows)
        p, q = (
            policy.vocabulary.of_tokens(policy.vocabulary.logits(h[part])).log_softmax(dim=-1)
            for policy, h in zip((base, trained), hidden, strict=True)
        )
        kl = (p.exp() * (p - q)).sum(dim=-1)
        agree = (p.argmax(dim=-1) == q.argmax(dim=-1)).to(kl.dtype)
        at = following[part, None]
        columns.append(torch.stack((kl, agree, (p.gather(-1, at) - q.gather(-1, at))[:, 0])))
    return torch.cat(columns, dim=1)
