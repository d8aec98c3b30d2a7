"""How annotations are checked while testing: an int is accepted for a float, as type checkers do."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
