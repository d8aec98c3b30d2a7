"""The command line: softtokens COMMAND, one of COMMANDS."""

from softtokens.cli.commands import COMMANDS
from softtokens.cli.entry import EXIT_REQUEUE, end, main, parse, run

__all__ = ["COMMANDS", "EXIT_REQUEUE", "end", "main", "parse", "run"]
