"""The chat templates of ten families of models, and small tokenizers that have their special tokens."""

from __future__ import annotations

import copy
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "chat_templates"
TEMPLATES = {file.stem: file.read_text() for file in sorted(FOLDER.glob("*.jinja"))}
SPECIAL = re.compile(r"<\|[a-z_]+\|>|<｜[\w▁]+｜>|<(?:start|end)_of_turn>|\[/?INST\]")


def chat_tokenizer(tokenizer, template: str, *, bos: str | None = "<bos>"):
    """The small tokenizer with the special tokens that a template writes, and with bos in front of every text."""
    from tokenizers.processors import TemplateProcessing

    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    own.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(template)))})
    own.add_tokens(["<think>", "</think>"])
    if bos is not None:
        own.add_special_tokens({"bos_token": bos})
        front = [(bos, own.convert_tokens_to_ids(bos))]
        own.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=front)
    return own
