"""Webhooks against a real receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from ci_runner.errors import SettingsError
from ci_runner.model.job import Job, utcnow
from ci_runner.plugins.manager import Plugins
from ci_runner.plugins.webhooks import Webhooks, verify

SECRET = "0123456789abcdef"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def started(url: str, retries: tuple[float, ...] = (0.01, 0.01, 0.01)) -> Plugins:
    plugins = Plugins({"CI_RUNNER_WEBHOOK_URL": url, "CI_RUNNER_WEBHOOK_SECRET": SECRET})
    plugins.register(Webhooks(retries, timeout=2), "webhooks")
    return plugins


JOB = Job("job-1", status="completed", success=True, exit_code=0, end_time=utcnow(), user_id="user-1")


def test_a_finished_job_is_told_once_and_signed(receiver: Receiver) -> None:
    plugins = started(receiver.url)
    plugins.job_finished(JOB)
    wait_until(lambda: receiver.received, what="a delivery")
    plugins.close()
    ((headers, body),) = receiver.received
    assert verify(SECRET, headers, body, now=time.time())
    assert not verify("another secret 00", headers, body, now=time.time())
    assert not verify(SECRET, headers, body + b" ", now=time.time())
    assert not verify(SECRET, headers, body, now=time.time() + 3600)
    assert headers["x-ci-runner-event"] == "job.finished"
    content = json.loads(body)
    assert content["delivery"] == headers["x-ci-runner-delivery"]
    assert content["job"] == JOB.to_summary_dict()
    assert "user-1" not in body.decode()


def test_a_receiver_that_fails_is_tried_again_with_the_same_delivery(receiver: Receiver) -> None:
    receiver.answers = [503, 429]
    plugins = started(receiver.url)
    plugins.job_finished(JOB)
    wait_until(lambda: len(receiver.received) == 3, what="three tries")
    plugins.close()
    assert len({headers["x-ci-runner-delivery"] for headers, _ in receiver.received}) == 1
    assert len({body for _, body in receiver.received}) == 1


@pytest.mark.parametrize("status", [400, 302])
def test_an_answer_that_will_not_change_is_not_asked_for_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    plugins = started(receiver.url)
    plugins.job_finished(JOB)
    wait_until(lambda: receiver.received, what="a delivery")
    plugins.job_finished(Job("job-2"))
    wait_until(lambda: len(receiver.received) == 2, what="the next delivery")
    plugins.close()
    assert [json.loads(body)["job"]["job_id"] for _, body in receiver.received] == ["job-1", "job-2"]


def test_a_delivery_is_given_up_after_the_last_try(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500] * 10
    plugins = started(receiver.url, retries=(0.01,))
    plugins.job_finished(JOB)
    wait_until(lambda: "not accepted after 2 tries" in caplog.text, what="giving up")
    plugins.close()
    assert len(receiver.received) == 2


def test_a_receiver_that_is_not_there_holds_nobody_up() -> None:
    plugins = started("http://127.0.0.1:9/hook", retries=(60.0,))
    before = time.monotonic()
    for number in range(50):
        plugins.job_finished(Job(f"job-{number}"))
    assert time.monotonic() - before < 30, "one retry alone waits 60"
    plugins.close()
    assert time.monotonic() - before < 50


def test_what_waits_at_the_end_gets_a_last_try(receiver: Receiver) -> None:
    receiver.answers = [503]
    plugins = started(receiver.url, retries=(600.0,))
    plugins.job_finished(JOB)
    wait_until(lambda: receiver.received, what="the first try")
    plugins.close()
    assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("url", "secret", "complaint"),
    [
        pytest.param("ftp://example.org/x", SECRET, "WEBHOOK_URL", id="another scheme"),
        pytest.param("http://", SECRET, "WEBHOOK_URL", id="no host"),
        pytest.param("https://example.org", "", "WEBHOOK_SECRET", id="no secret"),
        pytest.param("https://example.org", "short", "WEBHOOK_SECRET", id="a short secret"),
    ],
)
def test_wrong_settings_are_named(url: str, secret: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Webhooks().configure({"CI_RUNNER_WEBHOOK_URL": url, "CI_RUNNER_WEBHOOK_SECRET": secret})
