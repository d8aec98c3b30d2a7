"""Rollouts of a batch, as data: everything a replay, a grader or a report needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float32, Int, Int8, Shaped
from torch import Tensor

from softtokens.ops.random import Keys

_STORED = "stored."  # prefix of their names in a file


class Kind:
    """The kind of a position of a rollout. An explicit mark: no token id and no weight has a second meaning."""

    PAD, PROMPT, THOUGHT, FORCED, ANSWER = range(5)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A batch of rollouts; rows of one problem need not be neighbours.

    ids: the tokens; at thought positions the token fed or the shadow. kind: see `Kind`. stored: by name, what the
    family of thoughts keeps of each step (see `Thought.stores`): often `inputs`, the vectors that were fed; nothing
    where thoughts are tokens. log_prob: natural log, at thought and answer positions as sampled, 0 elsewhere
    (noise-free and greedy steps have none and hold 0). keys: names of the random numbers, one per row.
    """

    ids: Int[Tensor, "rows seq"]
    kind: Int8[Tensor, "rows seq"]
    stored: Mapping[str, Shaped[Tensor, "rows steps _"]]
    log_prob: Float32[Tensor, "rows seq"]
    keys: Keys
    prompt_lengths: Int[Tensor, "rows"]
    stop_reasons: list[str]  # the name of an ending, or endings.LIMIT or EOS
    thought_texts: list[str]
    answer_texts: list[str]  # forced text and answer, what a grader reads

    @property
    def rows(self) -> int:
        return self.ids.shape[0]

    @property
    def is_thought(self) -> Bool[Tensor, "rows seq"]:
        return self.kind == Kind.THOUGHT

    @property
    def is_answer(self) -> Bool[Tensor, "rows seq"]:
        return self.kind == Kind.ANSWER

    @property
    def thought_lengths(self) -> Int[Tensor, "rows"]:
        return self.is_thought.sum(-1)

    @property
    def answer_lengths(self) -> Int[Tensor, "rows"]:
        return self.is_answer.sum(-1)

    @property
    def lengths(self) -> Int[Tensor, "rows"]:
        """Positions in use of each row; they are the leading ones."""
        return (self.kind != Kind.PAD).sum(-1)

    @property
    def emitted_lengths(self) -> Int[Tensor, "rows"]:
        """Positions after the prompt."""
        return self.lengths - self.prompt_lengths

    def prompts(self) -> tuple[list[list[int]], Int[Tensor, "rows"]]:
        """The distinct prompts, and which of them each row has."""
        rows = zip(self.ids.tolist(), self.prompt_lengths.tolist(), strict=True)
        position: dict[tuple[int, ...], int] = {}
        of_row = [position.setdefault(tuple(ids[:length]), len(position)) for ids, length in rows]
        return [list(prompt) for prompt in position], torch.tensor(of_row, device=self.ids.device)

    def to(self, device: torch.device) -> Rollout:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "kind", "log_prob", "prompt_lengths")}
        stored = {name: x.to(device) for name, x in self.stored.items()}
        keys = Keys(self.keys.seed, self.keys.problem.to(device), self.keys.rollout.to(device))
        return dataclasses.replace(self, **moved, stored=stored, keys=keys)

    def take(self, rows: Int[Tensor, "chosen"]) -> Rollout:
        """Some rows, cut to the longest of them."""
        seq = int(self.lengths[rows].max())
        steps = int(self.thought_lengths[rows].max())
        chosen = rows.tolist()
        return Rollout(
            ids=self.ids[rows, :seq],
            kind=self.kind[rows, :seq],
            stored={name: x[rows, :steps] for name, x in self.stored.items()},
            log_prob=self.log_prob[rows, :seq],
            keys=self.keys[rows],
            prompt_lengths=self.prompt_lengths[rows],
            stop_reasons=[self.stop_reasons[i] for i in chosen],
            thought_texts=[self.thought_texts[i] for i in chosen],
            answer_texts=[self.answer_texts[i] for i in chosen],
        )

    @staticmethod
    def concatenate(parts: list[Rollout]) -> Rollout:
        """Rows of all parts, one after the other."""

        def joined(tensors: list[Tensor]) -> Tensor:
            most = max(x.shape[1] for x in tensors)
            padding = [(0, 0) * (x.dim() - 2) + (0, most - x.shape[1]) for x in tensors]
            return torch.cat([torch.nn.functional.pad(x, pad) for x, pad in zip(tensors, padding, strict=True)])

        keys = [part.keys for part in parts]
        return Rollout(
            **{name: joined([getattr(part, name) for part in parts]) for name in ("ids", "kind", "log_prob")},
            stored={name: joined([part.stored[name] for part in parts]) for name in parts[0].stored},
            keys=Keys(keys[0].seed, *(torch.cat([getattr(k, n) for k in keys]) for n in ("problem", "rollout"))),
            prompt_lengths=torch.cat([part.prompt_lengths for part in parts]),
            stop_reasons=[reason for part in parts for reason in part.stop_reasons],
            thought_texts=[text for part in parts for text in part.thought_texts],
            answer_texts=[text for part in parts for text in part.answer_texts],
        )

    def save(
        self, path: str | Path, more: Mapping[str, Tensor] | None = None, about: Mapping[str, str] | None = None
    ) -> None:
        """One safetensors file; texts go into its header. more, about: further tensors and entries of the header."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name) for name in ("ids", "kind", "log_prob", "prompt_lengths")}
        tensors |= {"problem": self.keys.problem, "rollout": self.keys.rollout}
        tensors |= {f"{_STORED}{name}": x for name, x in self.stored.items()}
        header = {
            "seed": self.keys.seed,
            "stop_reasons": self.stop_reasons,
            "thought_texts": self.thought_texts,
            "answer_texts": self.answer_texts,
        }
        tensors |= more or {}
        entries = {"softtokens": json.dumps(header), **(about or {})}
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, path, entries)

    @staticmethod
    def load(path: str | Path) -> Rollout:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["softtokens"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return Rollout(
            ids=tensors["ids"],
            kind=tensors["kind"],
            stored={name.removeprefix(_STORED): x for name, x in tensors.items() if name.startswith(_STORED)},
            log_prob=tensors["log_prob"],
            keys=Keys(header["seed"], tensors["problem"], tensors["rollout"]),
            prompt_lengths=tensors["prompt_lengths"],
            stop_reasons=header["stop_reasons"],
            thought_texts=header["thought_texts"],
            answer_texts=header["answer_texts"],
        )
