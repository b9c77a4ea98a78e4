"""What every `JobRepository` does: the reference's persistence cases, held against each implementation."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memory_repository import Contents, MemoryRepository

from ci_runner.errors import Conflict, NotFound, RunnerError
from ci_runner.model.job import APIKey, Job, JobEvent, NaiveTimeWarning, User
from ci_runner.model.job_options import JobOptions
from ci_runner.store import Store
from ci_runner.store.job_repository import JobRepository

NOON = dt.datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=dt.timezone.utc)
ELSEWHERE = dt.timezone(dt.timedelta(hours=5, minutes=30))


def at(second: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=second)


def database(folder: Path) -> Callable[[], JobRepository]:
    return lambda: Store.open(folder / "runner.db")


def memory(_: Path) -> Callable[[], JobRepository]:
    contents = Contents()
    return lambda: MemoryRepository(contents)


@pytest.fixture(params=[database, memory])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], JobRepository]]:
    """Open one and the same repository, as often as it is called."""
    opened: list[JobRepository] = []
    open_again: Callable[[], JobRepository] = request.param(tmp_path)

    def open_repository() -> JobRepository:
        opened.append(open_again())
        return opened[-1]

    yield open_repository
    for repository in opened:
        repository.close()


@pytest.fixture
def repository(opener: Callable[[], JobRepository]) -> JobRepository:
    return opener()


def make_user(repository: JobRepository, email: str = "ann@example.org", **fields: Any) -> User:
    return repository.create_user(User(str(uuid.uuid4()), "Ann", email, **{"created_at": NOON, **fields}))


def make_job(repository: JobRepository, user: User | None = None, **fields: Any) -> Job:
    return repository.create_job(Job(str(uuid.uuid4()), user_id=user.id if user else None, **fields))


def make_key(repository: JobRepository, user: User, key_id: str = "AAAAAAAA", **fields: Any) -> APIKey:
    values = {"key_hash": key_id.lower() * 8, "name": "laptop", "created_at": NOON, **fields}
    return repository.create_api_key(APIKey(key_id, user.id, **values))


@pytest.mark.case(87)
def test_a_job_comes_back_as_it_was_stored(repository: JobRepository) -> None:
    user = make_user(repository)
    job = Job(
        str(uuid.uuid4()),
        user_id=user.id,
        zip_file_path="/tmp/x.zip",
        name="näme",
        priority="high",
        submitted_at=NOON.astimezone(ELSEWHERE),
        options=JobOptions.from_dict({"args": ["-k", "ü\ud800\0"], "protocol": 1}),
        workspace="ab" * 32,
    )
    assert repository.create_job(job) == job
    stored = repository.get_job(job.id)
    assert stored is not None
    assert stored.queue_position == 1
    assert Job(**{**vars(stored), "queue_position": None}) == job


@pytest.mark.case(87)
def test_a_missing_job_is_none(repository: JobRepository) -> None:
    assert repository.get_job(str(uuid.uuid4())) is None
    assert repository.get_job("\ud800\0") is None


@pytest.mark.case(87)
def test_status_start_and_completion_are_stored(repository: JobRepository) -> None:
    job = make_job(repository)
    repository.update_job_status(
        job.id, "running", start_time=at(1).astimezone(ELSEWHERE), container_id="c0ffee"
    )
    running = repository.get_job(job.id)
    assert running is not None
    assert (running.status, running.start_time, running.container_id) == ("running", at(1), "c0ffee")
    assert (running.success, running.end_time, running.queue_position) == (None, None, None)
    repository.complete_job(job.id, True, at(2))
    over = repository.get_job(job.id)
    assert over is not None
    assert (over.status, over.success, over.end_time, over.start_time) == ("completed", True, at(2), at(1))


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_terminal_status_is_never_overwritten(repository: JobRepository, status: Any) -> None:
    job = make_job(repository)
    repository.update_job_status(job.id, status)
    before = repository.get_job(job.id, events=True)
    for change in (
        lambda: repository.complete_job(job.id, True),
        lambda: repository.update_job_status(job.id, "running"),
        lambda: repository.update_job_status(job.id, "failed"),
        lambda: repository.add_event(job.id, JobEvent("log", "late")),
    ):
        with pytest.raises(Conflict):
            change()
    assert repository.get_job(job.id, events=True) == before
    assert before is not None
    assert before.status == status


def test_the_end_of_a_job_is_its_last_event(repository: JobRepository) -> None:
    job = make_job(repository)
    repository.add_event(job.id, JobEvent("log", "1 passed\n"))
    repository.complete_job(job.id, True)
    events = repository.get_events(job.id)
    assert [(event.seq, event.type, event.success) for event in events] == [
        (1, "log", None),
        (2, "complete", True),
    ]


def test_a_change_to_what_is_not_there_is_an_error(repository: JobRepository) -> None:
    for change in (
        lambda: repository.update_job_status("nothing", "running"),
        lambda: repository.complete_job("nothing", True),
        lambda: repository.add_event("nothing", JobEvent("log", "x")),
        lambda: repository.update_user_active_status("nobody", False),
        lambda: repository.revoke_api_key("nothing"),
    ):
        with pytest.raises(NotFound):
            change()


def test_a_duplicate_job_is_refused(repository: JobRepository) -> None:
    job = make_job(repository)
    with pytest.raises(Conflict):
        repository.create_job(job)


@pytest.mark.case(88)
def test_events_come_in_order_and_from_an_index(repository: JobRepository) -> None:
    job = make_job(repository)
    numbers = [
        repository.add_event(job.id, JobEvent("log", f"line {n}\n", timestamp=at(n))) for n in range(5)
    ]
    assert numbers == [1, 2, 3, 4, 5]
    events = repository.get_events(job.id)
    assert [event.data for event in events] == [f"line {n}\n" for n in range(5)]
    assert [event.timestamp for event in events] == [at(n) for n in range(5)]
    assert repository.get_events(job.id, from_index=2) == events[2:]
    assert len(repository.get_events(job.id, from_index=2)) == 3
    assert repository.get_events_since(job.id, 3) == events[3:]
    assert repository.get_events("nothing") == []


def test_events_are_numbered_per_job(repository: JobRepository) -> None:
    first, second = make_job(repository), make_job(repository)
    for number in (1, 2):
        assert repository.add_event(first.id, JobEvent("log", "a")) == number
        assert repository.add_event(second.id, JobEvent("log", "b")) == number


def test_events_can_be_scoped_by_user(repository: JobRepository) -> None:
    ann, bob = make_user(repository), make_user(repository, "bob@example.org")
    job = make_job(repository, ann)
    repository.add_event(job.id, JobEvent("log", "secret"))
    assert len(repository.get_events(job.id, user_id=ann.id)) == 1
    assert repository.get_events(job.id, user_id=bob.id) == []
    assert repository.get_events_since(job.id, 0, user_id=bob.id) == []
    assert repository.get_job(job.id, bob.id) is None
    assert repository.get_job(job.id, ann.id) is not None


@pytest.mark.parametrize(
    "event",
    [
        JobEvent("log", "plain\n", fields={"stream": "stdout"}),
        JobEvent("log", "zürich 日本 \N{PILE OF POO} \u2028", fields={"stream": "stderr"}),
        JobEvent("log", "lone \ud800 and NUL \0 and \x1b[31m"),
        JobEvent("log", ""),
        JobEvent(
            "state", fields={"phase": "testing", "queue_position": None, "nested": {"a": [1, 2.5, None]}}
        ),
        JobEvent("complete", success=False, fields={"status": "failed", "reason": "x"}),
        JobEvent("something-new", "text", True, fields={"data-like": "data"}),
    ],
    ids=lambda event: event.type,
)
def test_any_event_comes_back_as_it_was_stored(repository: JobRepository, event: JobEvent) -> None:
    job = make_job(repository)
    event = JobEvent(**{**vars(event), "timestamp": NOON, "seq": 1})
    repository.add_event(job.id, event)
    assert repository.get_events(job.id) == [event]


@pytest.mark.case(89)
def test_listing_leaves_events_out(repository: JobRepository) -> None:
    job = make_job(repository)
    repository.add_event(job.id, JobEvent("log", "x"))
    (listed,) = repository.list_jobs()
    assert listed.events == ()
    whole = repository.get_job(job.id, events=True)
    assert whole is not None
    assert len(whole.events) == 1


def test_listing_is_newest_submission_first(repository: JobRepository) -> None:
    # The reference orders by start time, so that queued jobs come last: ours asks what was submitted when.
    jobs = [make_job(repository, submitted_at=at(n)) for n in (2, 1, 3)]
    repository.update_job_status(jobs[1].id, "running", start_time=at(9))
    assert [job.id for job in repository.list_jobs()] == [jobs[2].id, jobs[0].id, jobs[1].id]
    assert [job.id for job in repository.list_jobs(status="running")] == [jobs[1].id]
    assert [job.id for job in repository.list_jobs(limit=1)] == [jobs[2].id]


@pytest.mark.case(90)
def test_everything_survives_opening_again(opener: Callable[[], JobRepository]) -> None:
    first = opener()
    user = make_user(first)
    key = make_key(first, user)
    job = make_job(first, user)
    first.add_event(job.id, JobEvent("log", "kept"))
    first.complete_job(job.id, False)
    expected = first.get_job(job.id, events=True)
    first.close()
    second = opener()
    second.initialize()
    assert second.get_job(job.id, events=True) == expected
    assert second.get_user(user.id) == user
    assert second.get_api_key_by_hash(key.key_hash) == key


@pytest.mark.case(91)
@pytest.mark.parametrize("email", ["ann@example.org", "ANN@Example.org", " ann@example.org"])
def test_a_duplicate_email_is_refused_whatever_its_case(repository: JobRepository, email: str) -> None:
    # The reference tells addresses apart by case: ours does not.
    make_user(repository)
    with pytest.raises(Conflict, match="already exists"):
        make_user(repository, email)
    assert len(repository.list_users()) == 1


@pytest.mark.case(91)
def test_a_duplicate_key_is_refused(repository: JobRepository) -> None:
    user = make_user(repository)
    key = make_key(repository, user)
    with pytest.raises(Conflict):
        make_key(repository, user, "BBBBBBBB", key_hash=key.key_hash)
    with pytest.raises(Conflict):
        make_key(repository, user, key.id, key_hash="0" * 64)
    assert repository.list_api_keys() == [key]


def test_keys_and_jobs_of_nobody_are_refused(repository: JobRepository) -> None:
    nobody = User("nobody", "Nobody", "nobody@example.org", NOON)
    with pytest.raises(NotFound):
        make_key(repository, nobody)
    with pytest.raises(NotFound):
        make_job(repository, nobody)


@pytest.mark.case(92)
def test_the_last_use_of_a_key_is_stored(repository: JobRepository) -> None:
    key = make_key(repository, make_user(repository))
    assert key.last_used_at is None
    repository.update_api_key_last_used(key.id, at(5))
    stored = repository.get_api_key_by_hash(key.key_hash)
    assert stored is not None
    assert stored.last_used_at == at(5)


@pytest.mark.case(93)
def test_lists_are_per_user_and_empty_for_who_has_nothing(repository: JobRepository) -> None:
    ann, bob = make_user(repository), make_user(repository, "bob@example.org")
    job, key = make_job(repository, ann), make_key(repository, ann)
    make_job(repository)
    assert [item.id for item in repository.list_jobs(ann.id)] == [job.id]
    assert repository.list_api_keys(ann.id) == [key]
    for nothing in (bob.id, "nobody"):
        assert repository.list_jobs(nothing) == []
        assert repository.list_api_keys(nothing) == []


def test_users_and_keys_are_listed_newest_first(repository: JobRepository) -> None:
    users = [make_user(repository, f"{n}@example.org", created_at=at(n)) for n in (2, 1, 3)]
    assert repository.list_users() == [users[2], users[0], users[1]]
    keys = [make_key(repository, users[0], f"KEY{n}", created_at=at(n)) for n in (2, 1, 3)]
    assert repository.list_api_keys() == [keys[2], keys[0], keys[1]]


def test_a_user_is_found_by_id_and_by_email_whatever_its_case(repository: JobRepository) -> None:
    user = make_user(repository)
    assert repository.get_user(user.id) == user
    assert repository.get_user_by_email("Ann@EXAMPLE.org") == user
    assert repository.get_user("nobody") is None
    assert repository.get_user_by_email("nobody@example.org") is None


def test_a_user_is_switched_off_and_on(repository: JobRepository) -> None:
    user = make_user(repository)
    for is_active in (False, False, True):
        repository.update_user_active_status(user.id, is_active)
        stored = repository.get_user(user.id)
        assert stored is not None
        assert stored.is_active is is_active


def test_a_revoked_key_stays_revoked_and_visible(repository: JobRepository) -> None:
    key = make_key(repository, make_user(repository))
    for _ in range(2):
        repository.revoke_api_key(key.id)
    stored = repository.get_api_key_by_hash(key.key_hash)
    assert stored is not None
    assert not stored.is_active
    assert [item.id for item in repository.list_api_keys()] == [key.id]


@pytest.mark.parametrize(
    "change",
    [
        lambda repository, job, key, moment: make_job(repository, submitted_at=moment).submitted_at,
        lambda repository, job, key, moment: (
            make_user(repository, "b@example.org", created_at=moment).created_at
        ),
        lambda repository, job, key, moment: changed(
            repository.update_job_status(job.id, "running", moment), repository.get_job(job.id).start_time
        ),
        lambda repository, job, key, moment: changed(
            repository.complete_job(job.id, True, moment), repository.get_job(job.id).end_time
        ),
        lambda repository, job, key, moment: changed(
            repository.add_event(job.id, JobEvent("log", "x", timestamp=moment)),
            repository.get_events(job.id)[0].timestamp,
        ),
        lambda repository, job, key, moment: changed(
            repository.update_api_key_last_used(key.id, moment),
            repository.get_api_key_by_hash(key.key_hash).last_used_at,
        ),
        lambda repository, job, key, moment: (
            repository.create_api_key(APIKey("BBBBBBBB", key.user_id, "0" * 64, created_at=moment)).created_at
        ),
    ],
    ids=["job", "user", "status", "complete", "event", "last use", "key"],
)
def test_naive_times_are_taken_as_utc_with_a_warning(repository: JobRepository, change: Any) -> None:
    key = make_key(repository, make_user(repository))
    job = make_job(repository)
    with pytest.warns(NaiveTimeWarning, match="has no time zone and is taken as UTC"):
        assert change(repository, job, key, NOON.replace(tzinfo=None)) == NOON


def changed(_: object, value: Any) -> Any:
    return value


def test_jobs_are_found_page_by_page_by_time_and_by_words(repository: JobRepository) -> None:
    ann = make_user(repository)
    jobs = [make_job(repository, ann, submitted_at=at(n), name=f"Nightly {n}") for n in range(3)]
    foreign = make_job(repository, submitted_at=at(9), name="other")

    def ids(**wanted: Any) -> list[str]:
        return [job.id for job in repository.list_jobs(ann.id, **wanted)]

    assert ids(before=jobs[2].id) == [jobs[1].id, jobs[0].id]
    assert ids(before=jobs[2].id, limit=1) == [jobs[1].id]
    assert ids(since=at(1)) == [jobs[2].id, jobs[1].id]
    assert ids(query="nightLY 1") == [jobs[1].id]
    assert ids(query=jobs[0].id[:8]) == [jobs[0].id]
    assert ids(query="nothing") == ids(query=foreign.id) == []
    for unknown in (foreign.id, "nothing"):
        with pytest.raises(NotFound):
            ids(before=unknown)


def test_the_queue_gives_users_turns(repository: JobRepository) -> None:
    ann, bob = make_user(repository), make_user(repository, "bob@example.org")
    jobs = [make_job(repository, user, submitted_at=at(n)) for n, user in enumerate((ann, ann, bob))]
    places = {job.id: job.queue_position for job in repository.list_jobs()}
    assert [places[job.id] for job in jobs] == [1, 3, 2]


def test_a_closed_repository_refuses_its_use(opener: Callable[[], JobRepository]) -> None:
    closed, other = opener(), opener()
    closed.close()
    closed.close()
    with pytest.raises(RunnerError, match="closed"):
        closed.list_jobs()
    assert other.list_jobs() == []


def test_a_key_needs_no_name_and_no_time(repository: JobRepository) -> None:
    user = make_user(repository)
    key = repository.create_api_key(APIKey("AAAAAAAA", user.id, "0" * 64))
    assert key.name is None
    assert key.created_at.tzinfo is not None
    assert repository.list_api_keys(user.id) == [key]


@pytest.mark.defect("A18")
@pytest.mark.case(94)
def test_an_event_names_only_what_it_has() -> None:
    assert JobEvent("log", "x").to_dict() == {"type": "log", "data": "x"}
    assert JobEvent("complete", success=False, timestamp=NOON).to_dict() == {
        "type": "complete",
        "success": False,
        "timestamp": "2026-01-01T12:00:00.123456Z",
    }
    elsewhere = NOON.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))
    assert JobEvent("x", timestamp=elsewhere).to_dict()["timestamp"] == "2026-01-01T12:00:00.123456Z"


@pytest.mark.case(94)
def test_a_summary_hides_what_is_the_runners_own(repository: JobRepository) -> None:
    job = make_job(repository, make_user(repository), container_id="c0ffee", zip_file_path="/tmp/x.zip")
    summary = repository.list_jobs()[0].to_summary_dict()
    assert summary["job_id"] == job.id
    assert summary["start_time"] is summary["end_time"] is None
    assert not summary.keys() & {"id", "container_id", "zip_file_path", "user_id"}
    assert "c0ffee" not in str(summary)
