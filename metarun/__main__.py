"""`python -m metarun` is the command `metarun`."""

import sys

from metarun.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
