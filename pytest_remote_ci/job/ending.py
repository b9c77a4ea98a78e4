"""Shorten the interpreter's exit after a session, which takes a tenth of all processor time for ten thousand tests.

At exit Python scans all objects several times and frees those that only reference cycles hold. If freeing them would
have no effect, that is left to the kernel. Handlers of `atexit` (so `weakref.finalize`, too), threads and objects
held by modules end as usual; bare callbacks of weak references, which Python does not guarantee at exit, may not be
called. Standard library only.
"""

from __future__ import annotations

import gc
import io
import sys
import types

#: Types of objects that run the rest of their ``finally`` when freed in the middle.
_FRAMES = {
    types.GeneratorType: "gi_frame",
    types.CoroutineType: "cr_frame",
    types.AsyncGeneratorType: "ag_frame",
}
_FILES = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)
_IN_MEMORY = (io.StringIO, io.BytesIO)


def is_quiet() -> bool:
    """Whether freeing any object known to the garbage collector would have no effect.

    Finished generators and closed files have none. The standard streams are flushed in any case.
    """
    living = gc.get_objects()
    kinds = {kind for kind in set(map(type, living)) if _has_finalizer(kind)}
    standard = _standard_streams()
    return not any(_acts(thing, standard) for thing in living if type(thing) in kinds)


def shorten() -> None:
    """Leave freeing objects to the kernel, if that makes no visible difference."""
    try:
        if is_quiet():
            gc.freeze()
    except Exception:  # a class that cannot be inspected: free objects as usual
        return


def _has_finalizer(kind: type) -> bool:
    return any("__del__" in vars(base) for base in type.mro(kind)) if kind is not type else False


def _acts(thing: object, standard: set[int]) -> bool:
    kind = type(thing)
    if kind in _FRAMES:
        return getattr(thing, _FRAMES[kind]) is not None
    if kind in _FILES and isinstance(thing, _FILES):
        return not thing.closed and id(thing) not in standard
    return kind not in _IN_MEMORY


def _standard_streams() -> set[int]:
    found = set()
    for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
        buffer = getattr(stream, "buffer", None)
        found |= {id(stream), id(buffer), id(getattr(buffer, "raw", None))}
    return found
