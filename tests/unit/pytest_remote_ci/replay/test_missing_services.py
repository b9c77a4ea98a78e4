"""Failures that look like a missing server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_remote_ci.replay.failure_hints import hint

PG = 'connection to server at "localhost" (127.0.0.1), port 5432 failed: Connection refused'


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (f"psycopg2.OperationalError: {PG}\n\tIs the server running?", "PostgreSQL"),
        (f"sqlalchemy.exc.OperationalError: (psycopg.OperationalError) {PG}", "PostgreSQL"),
        (
            'psycopg2.OperationalError: could not translate host name "db" to address: Name not known',
            "PostgreSQL",
        ),
        ("ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 5432)", "PostgreSQL"),
        (
            'psycopg.OperationalError: connection to server on socket "/run/postgresql/.s" failed: No such file',
            "PostgreSQL",
        ),
        (
            "redis.exceptions.ConnectionError: Error 111 connecting to localhost:6379. Connection refused.",
            "Redis",
        ),
        (
            "redis.exceptions.ConnectionError: Error -2 connecting to redis:6379. Name or service not known.",
            "Redis",
        ),
        ("pymysql.err.OperationalError: (2003, \"Can't connect to MySQL server on 'localhost'\")", "MySQL"),
        ("pymongo.errors.ServerSelectionTimeoutError: localhost:27017: [Errno 111] refused", "MongoDB"),
        ("pika.exceptions.AMQPConnectionError", "RabbitMQ"),
        (
            "docker.errors.DockerException: Error while fetching server API version: ('Connection aborted.')",
            "Docker",
        ),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "Docker"),
    ],
)
def test_a_missing_server_points_to_services(message: str, word: str) -> None:
    for longrepr in (message, SimpleNamespace(reprcrash=SimpleNamespace(message=message))):
        line = hint(longrepr)
        assert line is not None
        assert word in line
        assert "`services`" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "message",
    [
        "assert 1 == 2",
        "",
        None,
        "AssertionError: postgres is a database",
        "ConnectionRefusedError: [Errno 111] Connection refused",
        "assert 'docker' in names",
        "x" * 100_000,
        "connection to server at " * 5000,
    ],
)
def test_other_failures_say_nothing(message: object) -> None:
    assert hint(message) is None
