"""Places for builds: who gets one, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.waiting import wait_until

from ci_runner.controller.environments.places import BuildPlaces, PreparationStopped


def never() -> bool:
    return False


def once() -> bool:
    """Give up as soon as the place is not free."""
    return True


class Queue:
    """Threads that wait for places, and the order in which they got them."""

    def __init__(self, places: BuildPlaces) -> None:
        self.places = places
        self.order: list[str] = []
        self.go = threading.Event()
        self.threads: list[threading.Thread] = []

    def add(self, user: str, job_id: str) -> None:
        before = len(self.places._waiting)
        thread = threading.Thread(target=self._wait, args=(user, job_id))
        self.threads.append(thread)
        thread.start()
        wait_until(lambda: len(self.places._waiting) > before, what=f"{job_id} to wait")

    def _wait(self, user: str, job_id: str) -> None:
        with self.places.taken(user, job_id, self.go.is_set):
            self.order.append(job_id)

    def join(self) -> list[str]:
        for thread in self.threads:
            thread.join(10)
        return self.order


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_one_user_has_so_many_and_another_one_more(held: ExitStack) -> None:
    places = BuildPlaces(2)
    for number in (1, 2):
        held.enter_context(places.taken("alice", f"a{number}", once))
    with pytest.raises(PreparationStopped, match="stopped before the environment was built"):
        held.enter_context(places.taken("alice", "a3", once))
    held.enter_context(places.taken("bob", "b1", once))
    with pytest.raises(PreparationStopped):
        held.enter_context(places.taken("carol", "c1", once))


def test_builds_of_one_job_share_its_place_until_the_last_one_ends() -> None:
    places = BuildPlaces(1)
    with places.taken("alice", "a", once):
        with places.taken("alice", "a", once), places.taken("alice", "a", once):
            pass
        with pytest.raises(PreparationStopped), places.taken("alice", "b", once):
            pass
    with places.taken("alice", "b", once):
        pass


def test_even_without_places_there_is_one_for_each_of_two_users(held: ExitStack) -> None:
    places = BuildPlaces(0)
    held.enter_context(places.taken("alice", "a", once))
    held.enter_context(places.taken("bob", "b", once))


def test_the_user_with_the_fewest_builds_comes_first_then_the_one_who_waited_longest() -> None:
    places = BuildPlaces(1)
    queue = Queue(places)
    with places.taken("alice", "a1", never):
        with places.taken("bob", "b1", never):
            for user, job_id in (("alice", "a2"), ("bob", "b2"), ("carol", "c1"), ("dave", "d1")):
                queue.add(user, job_id)
        wait_until(lambda: len(queue.order) >= 3, what="those who have no build")
        assert queue.order == ["c1", "d1", "b2"], "bob was served before, alice has one"
    assert queue.join() == ["c1", "d1", "b2", "a2"]
    assert places._served == {}


def test_who_gives_up_leaves_the_turn_to_the_next_one() -> None:
    places = BuildPlaces(1)
    queue = Queue(places)
    with places.taken("alice", "a1", never), places.taken("bob", "b1", never):
        queue.add("carol", "c1")
        with pytest.raises(PreparationStopped), places.taken("dave", "d1", once):
            pass
    assert queue.join() == ["c1"]
    assert not places._holders
    assert not places._waiting


def test_fewer_builds_go_before_a_longer_time_without_a_turn() -> None:
    places = BuildPlaces(4)
    queue = Queue(places)
    with ExitStack() as held:
        for number in range(2):
            held.enter_context(places.taken("alice", f"a{number}", never))
        with places.taken("alice", "a2", never):
            held.enter_context(places.taken("bob", "b1", never))
            with places.taken("carol", "c1", never):
                queue.add("alice", "a3")
                queue.add("bob", "b2")
        wait_until(lambda: "b2" in queue.order, what="the user with fewer builds")
        assert queue.order[0] == "b2"
    assert sorted(queue.join()) == ["a3", "b2"]
