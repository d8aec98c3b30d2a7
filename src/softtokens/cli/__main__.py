"""python -m softtokens.cli, for torchrun."""

from softtokens.cli.entry import run

run()
