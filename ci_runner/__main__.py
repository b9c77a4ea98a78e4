"""``python -m ci_runner``: the same as ``ci-runner``."""

import sys

from ci_runner.cli import main

if __name__ == "__main__":
    sys.exit(main())
