"""``python -m datasets.inspect``."""

import sys

from datasets.inspect.command import main

if __name__ == "__main__":
    sys.exit(main())
