"""The command line: softtokens COMMAND, one of COMMANDS."""

from softtokens.cli.commands import COMMANDS
from softtokens.cli.entry import EXIT_REQUEUE, main, parse

__all__ = ["COMMANDS", "EXIT_REQUEUE", "main", "parse"]
