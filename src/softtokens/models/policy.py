"""The interface of a model for rollout and replay. `models.hf.HFPolicy` implements it with transformers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from softtokens.models.kv import SlotKV
from softtokens.models.prefix import PromptStates
from softtokens.ops.vocabulary import Vocabulary


@runtime_checkable
class Policy(Protocol):
    """A causal language model driven by embeddings. Runs without dropout, in sampling and in training alike."""

    tokenizer: Any
    context_length: int
    eos_ids: frozenset[int]
    embedding_rms: float  # root mean square of the table's entries when training started; the unit of gamma

    @property
    def device(self) -> torch.device: ...

    @property
    def has_cache(self) -> bool:
        """Whether a decode step runs one position per row; otherwise it runs the whole sequence again."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Head and embedding table with the current parameters."""
        ...

    def prompt_states(self, prompts: list[list[int]]) -> PromptStates:
        """Run each prompt once."""
        ...

    def step(self, inputs: Tensor, positions: Tensor, kv: SlotKV, view: int) -> Tensor:
        """One decode step: inputs [rows, dim] at positions int64 [rows] to hidden states [rows, dim].

        view: how many leading positions attention looks at, from `view`.
        """
        ...

    def view(self, positions: int) -> int:
        """A number of positions at least this large, rounded up so that few different numbers occur."""
        ...

    def continuation(self, inputs: Tensor, prompts: PromptStates, prompt_of_row: Tensor) -> Tensor:
        """Teacher-forced after a prompt that ran before: [rows, seq, dim] to [rows, seq, dim]. Padding at the end of
        a row is harmless. prompt_of_row: int64 [rows]."""
        ...

    def hidden_states(self, inputs: Tensor) -> Tensor:
        """Teacher-forced: [rows, seq, dim] to [rows, seq, dim]; each position attends to itself and those before."""
        ...
