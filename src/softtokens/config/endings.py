"""How thoughts end, as it is configured. Knows no tokenizer: `ending_setup` makes the endings of it."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Literal

import tyro

from softtokens.config.fields import require, require_choice
from softtokens.types import UserError

TOKEN_ID = re.compile(r"id:([0-9]{1,9})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class EndingsConfig:
    """How thoughts end, and what follows them."""

    preset: Annotated[Literal["auto", "paper", "think"], tyro.conf.arg(name="endings")] = "auto"
    """paper: thoughts end with "The final answer is: ", and the answer begins inside a box. think: they end with </think>, and the answer is a whole reply (Qwen3, DeepSeek-R1 distills). auto: think where --chat is on and the chat template is one of a thinking model, otherwise paper."""
    thought_end: tuple[str, ...] = ()
    """Instead of a preset: texts that end the thoughts, such as </think>, or tokens, as id:151668. Several are allowed."""
    forced_text: str | None = None
    """Text between thoughts and answer, which may be empty; by default that of the preset, and none after --thought-end. Thoughts that reach their limit get the first ending in front of it. A backslash followed by n is a line break."""

    def __post_init__(self) -> None:
        require_choice("preset", self.preset, ("auto", "paper", "think"))
        if self.thought_end and self.preset != "auto":
            raise UserError(
                f"endings is {self.preset}, and thought_end is given, which takes its place; drop one of them"
            )
        for text in self.thought_end:
            require("thought_end", repr(text), bool(text.strip()), "texts that are not only spaces, or tokens as id:N")
            malformed = text.startswith("id:") and not TOKEN_ID.fullmatch(text)
            require("thought_end", repr(text), not malformed, "texts, or tokens as id:N with the number of a token")
        require("thought_end", self.thought_end, len(set(self.thought_end)) == len(self.thought_end), "all different")
