"""`python -m spoolq` is the `spoolq` command."""

import sys

from spoolq.cli import main

if __name__ == "__main__":
    sys.exit(main())
