"""How thoughts end, as data: what they end with, and the text that is forced between thoughts and answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from softtokens.types import UserError

LIMIT, EOS = "limit", "eos"  # stop reasons besides the endings: max_thought_steps reached; an end-of-sequence token
SPACES = (" ", "\t", "\n")


@dataclasses.dataclass(frozen=True)
class Ending:
    """One way for thoughts to end.

    name: the stop reason that rollouts, logs and reports show. text: thoughts end when their (shadow) text ends with
    it. White space at its end is optional, because most tokenizers attach a space to the next token: ` \\boxed` never
    leaves a text that ends in "is: ". token_ids: thoughts also end with any of these tokens. forced: what follows the
    thoughts, before the answer; a space is put in front where neither side has one. May be empty.
    """

    name: str
    forced: str
    text: str = ""
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name in (LIMIT, EOS, ""):
            raise UserError(f"the name of an ending is {self.name!r}; give one that is not empty, {LIMIT} or {EOS}")
        if not self.text.strip() and not self.token_ids:
            raise UserError(
                f"the ending {self.name} has the text {self.text!r} and no token ids; give it a text with at least one "
                "character that is not a space, or token ids"
            )

    @property
    def core(self) -> str:
        """The part of the text that is required."""
        return self.text.rstrip("".join(SPACES))


@dataclasses.dataclass(frozen=True)
class Endings:
    """Every way for thoughts to end; where several match, the first counts. otherwise: what is forced after thoughts
    that end in none of them, by the limit or an end-of-sequence token."""

    ways: tuple[Ending, ...]
    otherwise: str

    def __post_init__(self) -> None:
        names = [way.name for way in self.ways]
        if len(set(names)) < len(names):
            raise UserError(f"the endings are named {', '.join(names)}; each needs a name of its own")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of all stop reasons, in the order of their numbers: the endings, the limit, the end of the sequence."""
        return (*(way.name for way in self.ways), LIMIT, EOS)

    @property
    def forced(self) -> tuple[str, ...]:
        """The forced text of each ending, and of thoughts that match none."""
        return (*(way.forced for way in self.ways), self.otherwise)


def endings_from(data: Mapping[str, Any]) -> Endings:
    """The endings of what `dataclasses.asdict` made of them, after JSON."""
    ways = (Ending(**{**way, "token_ids": tuple(way["token_ids"])}) for way in data["ways"])
    return Endings(tuple(ways), data["otherwise"])


_PHRASE, _BOX = "The final answer is: ", "\\boxed{"
PAPER = Endings((Ending("phrase", _BOX, _PHRASE),), _PHRASE + _BOX)  # arXiv 2509.19170
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
THINK = Endings((Ending("think", "\n\n", THINK_CLOSE),), f"\n{THINK_CLOSE}\n\n")  # Qwen3, DeepSeek-R1 distills
