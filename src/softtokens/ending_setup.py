"""The endings of thoughts that a configuration names, for a model's tokenizer."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from softtokens.config.endings import TOKEN_ID, EndingsConfig
from softtokens.endings import EOS, LIMIT, PAPER, THINK, THINK_CLOSE, THINK_OPEN, Ending, Endings
from softtokens.models.chat import Chat, opening_of_reply, uses_variable
from softtokens.models.files import load_tokenizer
from softtokens.tasks.prompt import line_ends
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
_SHORT_REPLY = 64  # tokens; hardly a reply of a thinking model is shorter


def endings_of(
    config: EndingsConfig, tokenizer: PreTrainedTokenizerBase | str, chat: Chat | None, *, max_answer_tokens: int
) -> Endings:
    """The endings, in the words of this tokenizer. Logs what `auto` chose. UserError for endings that it does not have.

    tokenizer: or the name of its model. chat: how a chat template makes the prompts; None for plain text.
    """
    if config.preset == "auto" and chat is None and not config.thought_end:
        return _with_forced(PAPER, PAPER.ways[0].text, config)
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if config.thought_end:
        return _custom(config, tokenizer)
    if config.preset == "paper" or (config.preset == "auto" and chat is not None and not _thinks(tokenizer, chat)):
        return _with_forced(PAPER, PAPER.ways[0].text, config)
    if config.preset == "auto":
        log.info(
            "the chat template is that of a thinking model, so thoughts end with %s and the answer is a whole reply; "
            "--endings paper changes that",
            THINK_CLOSE,
        )
    elif not _is_one_token(tokenizer, THINK_CLOSE):
        count = len(tokenizer.encode(THINK_CLOSE, add_special_tokens=False))
        raise UserError(
            f"endings is think, but {THINK_CLOSE} is {count} tokens of this tokenizer, so the model was not made to "
            f"end its thoughts with it; use --endings paper, or --thought-end '{THINK_CLOSE}' to match it as text"
        )
    if max_answer_tokens < _SHORT_REPLY:
        log.warning(
            "max_answer_tokens is %d, and after %s the answer is a whole reply; few will reach their \\boxed{}. Raise "
            "it to some hundreds.",
            max_answer_tokens, THINK_CLOSE,
        )  # fmt: skip
    return _with_forced(THINK, f"\n{THINK_CLOSE}", config)


def _thinks(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> bool:
    """Whether prompts end in an open block of thoughts, or the template has a switch for it that is on."""
    if not all(_is_one_token(tokenizer, tag) for tag in (THINK_OPEN, THINK_CLOSE)):
        return False
    opening = opening_of_reply(tokenizer, chat).rstrip()
    is_closed = opening.endswith(THINK_CLOSE)
    return opening.endswith(THINK_OPEN) or (uses_variable(tokenizer, "enable_thinking") and not is_closed)


def _is_one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return len(tokenizer.encode(text, add_special_tokens=False)) == 1


def _with_forced(endings: Endings, opening: str, config: EndingsConfig) -> Endings:
    """The endings with the forced text of the configuration, if it names one. opening: what goes in front of it after
    thoughts that match no ending."""
    if config.forced_text is None:
        return endings
    forced = line_ends(config.forced_text)
    ways = (Ending(way.name, forced, way.text, way.token_ids) for way in endings.ways)
    return Endings(tuple(ways), opening + forced)


def _custom(config: EndingsConfig, tokenizer: PreTrainedTokenizerBase) -> Endings:
    forced = line_ends(config.forced_text or "")
    names: list[str] = [LIMIT, EOS]
    ways = []
    for number, given in enumerate(config.thought_end, 1):
        token = TOKEN_ID.fullmatch(given)
        text, ids = ("", (int(token[1]),)) if token else (line_ends(given), ())
        if re.fullmatch(r"<\S+>|\[\S+\]", text) and not _is_one_token(tokenizer, text):
            log.warning(
                "thought_end %r is %d tokens of this tokenizer, so it is matched as text; if the model ends its "
                "thoughts with one token, name that as id:N",
                text, len(tokenizer.encode(text, add_special_tokens=False)),
            )  # fmt: skip
        name = re.sub(r"[^a-z0-9]+", "-", given.lower()).strip("-")
        names.append(name if name and name not in names else f"end-{number}")
        ways.append(Ending(names[-1], forced, text, ids))
    opening = ways[0].text or _text_of(tokenizer, ways[0].token_ids[0])
    return Endings(tuple(ways), opening + forced)


def _text_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    if token >= len(tokenizer):
        raise UserError(f"thought_end has the token {token}, but the tokenizer has 0 to {len(tokenizer) - 1}")
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one list of ids is one text"
    return text
