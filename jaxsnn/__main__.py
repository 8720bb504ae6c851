"""`python -m jaxsnn` is the command `jaxsnn`."""

import sys

from jaxsnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
