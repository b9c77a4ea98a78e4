"""Cycles and reachable nodes in a graph of names, without recursion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one cycle as ``[a, b, a]``, the first found in the order of `edges`; [] if there is none.

    Names that are not a key of `edges` have no edges.
    """
    done: set[str] = set()
    for start in edges:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        open_edges = [iter(edges[start])]
        while path:
            following = next(open_edges[-1], None)
            if following is None:
                open_edges.pop()
                done.add(path[-1])
                on_path.discard(path.pop())
            elif following in on_path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                on_path.add(following)
                open_edges.append(iter(edges.get(following, ())))
    return []


def closure(names: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    """Return `names` and all names reachable from them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(edges.get(name, ()))
    return found
