"""Rollouts as one would write them on a whiteboard: one row at a time, the whole sequence through the model at each
step, rules on text. The engine is compared with this ground truth."""

from __future__ import annotations

import dataclasses

import torch

from softtokens.endings import EOS, LIMIT
from softtokens.ops.random import Keys, Stream
from softtokens.rollout.record import Kind
from softtokens.rollout.stopping import decode_text, ending_by_text, forced_ids
from softtokens.thoughts import Hard


@dataclasses.dataclass
class Row:
    ids: list[int]
    kind: list[int]
    fed: list[torch.Tensor]
    reason: str = LIMIT

    def add(self, token, kind, inputs):
        self.ids.append(int(token))
        self.kind.append(kind)
        self.fed.append(inputs)


@torch.no_grad()
def plain_rollout(policy, thought, prompt, keys: Keys, limits) -> Row:
    """keys: the key of the one row."""
    vocabulary = policy.vocabulary
    row = Row(list(prompt), [Kind.PROMPT] * len(prompt), [vocabulary.embed(torch.tensor(i)).float() for i in prompt])

    def draw(how, step, stream):
        hidden = policy.hidden_states(torch.stack(row.fed)[None])[:, -1]
        drawn = how.at(hidden, vocabulary).draw(keys.at(step, stream))
        return int(drawn.token[0]), how.fed(drawn, vocabulary)[0].float()

    ways = limits.endings.ways
    ending = len(ways)
    for step in range(limits.max_thought_steps):
        token, inputs = draw(thought, step, Stream.THOUGHT)
        row.add(token, Kind.THOUGHT, inputs)
        text = decode_text(policy.tokenizer, [i for i, k in zip(row.ids, row.kind, strict=True) if k == Kind.THOUGHT])
        by_token = [i for i, way in enumerate(ways) if token in way.token_ids]
        by_text = ending_by_text(text, limits.endings)
        matching = by_token if by_text is None else [*by_token, by_text]
        if matching:
            ending = min(matching)
            row.reason = ways[ending].name
            break
        if token in policy.eos_ids:
            row.reason = EOS
            break
    ends_in_space = decode_text(policy.tokenizer, [row.ids[-1]]).endswith((" ", "\t", "\n"))
    for token in forced_ids(policy.tokenizer, limits.endings)[ending][ends_in_space]:
        row.add(token, Kind.FORCED, vocabulary.embed(torch.tensor(token)).float())
    for step in range(limits.max_answer_tokens):
        token, inputs = draw(Hard(limits.answer_temperature), step, Stream.ANSWER)
        row.add(token, Kind.ANSWER, inputs)
        if token in policy.eos_ids:
            break
    return row
