"""Make untrusted text safe to show: nothing invisible, no change of text direction, limited length."""

from __future__ import annotations

import re
from typing import Any

from softtokens.report.readers import text

LONGEST_TEXT = 4000  # characters
# control characters, marks that change direction or join, spaces that cannot be seen, surrogates
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def shown(value: object, longest: int = LONGEST_TEXT) -> str:
    """A text as it can be shown: shortened, with its full length, and with invisible characters written out."""
    full = text(value)
    cut = full if len(full) <= longest else f"{full[:longest]} … ({len(full):,} characters in all)"
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", cut)


def all_shown(value: Any) -> Any:
    """The same data with `shown` applied to every text in it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(key): all_shown(entry) for key, entry in value.items()}
    return [all_shown(entry) for entry in value] if isinstance(value, list | tuple) else value
