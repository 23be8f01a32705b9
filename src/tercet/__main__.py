"""`python -m tercet`, and so `torchrun -m tercet`: the command line."""

import sys

from tercet.cli import main

if __name__ == "__main__":
    sys.exit(main())
