"""``python -m processor.search``, see :mod:`processor.search.command`."""

import sys

from processor.search.command import main

if __name__ == "__main__":
    sys.exit(main())
