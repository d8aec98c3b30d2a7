"""python -m softtokens.cli, for torchrun."""

import sys

from softtokens.cli.entry import main

sys.exit(main())
