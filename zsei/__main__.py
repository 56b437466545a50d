"""`python -m zsei` is the command line."""

import sys

from zsei.cli import main

if __name__ == "__main__":
    sys.exit(main())
