"""A controller as a process of its own: `python controller_process.py DATA_DIR`. Ends cleanly at SIGTERM.

Over the process engine, whose containers outlive it, with the preparer of `support.controller`; what its failpoints do
is in the environment. Whoever starts it may kill it at any moment.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

from support.controller import POLICY, SimplePreparer, process_engine

from ci_runner.controller.loop import Controller
from ci_runner.settings.groups import ReconcileSettings, StorageSettings
from ci_runner.store import Store


def tell(file: Path, job_id: str) -> None:
    """What a plugin would do when a job ended."""
    with file.open("a") as told:
        told.write(f"{job_id}\n")


def main(data_dir: Path) -> None:
    """Reconcile until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(threadName)s %(message)s")
    store = Store.open(data_dir / "runner.db")
    engine = process_engine(data_dir)
    try:
        Controller(
            StorageSettings(data_dir=data_dir),
            ReconcileSettings(interval=0.5),
            store=store,
            engine=engine,
            preparer=SimplePreparer(data_dir),
            policy=POLICY,
            finished=lambda job: tell(data_dir / "told", job.id),
        ).run(stop)
    finally:
        engine.close()
        store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
