"""A quick end of the interpreter that has run a session: of ten thousand tests it takes a tenth of all processor time.

At its end Python looks through everything several times and frees what only reference cycles hold. Where nothing of
it would do anything when it is freed, that is left to the kernel. Handlers of `atexit` (so `weakref.finalize`, too),
threads and what modules hold end as ever; bare callbacks of weak references, which nobody is promised at the end of the
interpreter, may not be called. Standard library only.
"""

from __future__ import annotations

import gc
import io
import sys
import types
from typing import Any

#: Whoever is freed in the middle does the rest of its ``finally``.
_FRAMES = {
    types.GeneratorType: "gi_frame", types.CoroutineType: "cr_frame", types.AsyncGeneratorType: "ag_frame",
}  # fmt: skip
_FILES = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)
_IN_MEMORY = (io.StringIO, io.BytesIO)


def is_quiet() -> bool:
    """Whether no object that the garbage collector knows has anything left to do when it is freed.

    Generators that are over have not, nor have closed files. The standard streams are flushed in any case.
    """
    living = gc.get_objects()
    kinds = {kind for kind in set(map(type, living)) if _has_finalizer(kind)}
    standard = _standard_streams()
    return not any(_acts(thing, standard) for thing in living if type(thing) in kinds)


def shorten() -> None:
    """Leave everything to the kernel, if nobody can tell."""
    try:
        if is_quiet():
            gc.freeze()
    except Exception:  # a class that answers no questions: its objects are freed as ever
        return


def _has_finalizer(kind: type[Any]) -> bool:
    return any("__del__" in vars(base) for base in type.mro(kind)) if kind is not type else False


def _acts(thing: Any, standard: set[int]) -> bool:
    kind = type(thing)
    if kind in _FRAMES:
        return getattr(thing, _FRAMES[kind]) is not None
    if kind in _FILES:
        return not thing.closed and id(thing) not in standard
    return kind not in _IN_MEMORY


def _standard_streams() -> set[int]:
    found = set()
    for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
        buffer = getattr(stream, "buffer", None)
        found |= {id(stream), id(buffer), id(getattr(buffer, "raw", None))}
    return found
