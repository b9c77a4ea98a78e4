"""From a working tree to a job: what travels, what is said beside it, and handing both to the runner.

Knows no pytest session and no terminal: `session` and `cli` bring those.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire import SubmitOptions, WireError

if TYPE_CHECKING:
    from pytest_remote_ci.client import Client
    from pytest_remote_ci.config import Config
    from pytest_remote_ci.interrupts import Interrupts
    from pytest_remote_ci.workspace import Workspace
