"""The runner's persistent state: one SQLite file behind `Store`, divided by subject.

Values go in and come out as frozen dataclasses; Peewee is not visible outside this package.
"""

from ci_runner.store.database import Doorbell, StoreError
from ci_runner.store.encryption import SecretsUnreadable
from ci_runner.store.events import Sendable, SpoolPosition
from ci_runner.store.lease import LeaseState
from ci_runner.store.store import Store
from ci_runner.store.test_results import KINDS, MAX_RUNS, Kind
from ci_runner.store.users import Deletion

__all__ = [
    "KINDS",
    "MAX_RUNS",
    "Deletion",
    "Doorbell",
    "Kind",
    "LeaseState",
    "SecretsUnreadable",
    "Sendable",
    "SpoolPosition",
    "Store",
    "StoreError",
]
