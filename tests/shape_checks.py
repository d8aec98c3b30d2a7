"""How annotations are checked while testing: an int will do for a float, as it does for type checkers."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
