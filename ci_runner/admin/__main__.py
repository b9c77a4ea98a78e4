"""``python -m ci_runner.admin --db FILE …``: administration without the rest of the runner."""

import sys

from ci_runner.admin.cli import main

sys.exit(main())
