"""Generated requests to every route: none is answered by an error of the runner's, or outside of its description."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from support.http_server import PROJECT, Person, Runner, running, zip_of
from support.openapi import plain_document, validate_answer

from ci_runner.server.openapi.document import document
from ci_runner.settings.groups import ServeSettings
from pytest_remote_ci.wire.protocol import Manifest

HERE = Path(__file__).parent
#: Operations × both ways of making values × this.
EXAMPLES = 3

SOME = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

DEEP = "[" * 100_000 + "]" * 100_000
WIDE = '{"a":' * 50_000 + "1" + "}" * 50_000
DIGITS = "9" * 10_000
#: Values that parsers stumble over, as they stand in a query.
NASTY = [
    "",
    "%00",
    "%ff",
    "%C0%AF",
    "%ED%A0%80",
    "%F0%9F%92%A9",
    "%",
    "%zz",
    "%0d%0aX:y",
    "..%2f..%2fetc%2fpasswd",
    "-1",
    "0",
    "1",
    "+1",
    "%2B1",
    "1.5",
    "1e9",
    "1e999",
    "nan",
    "Infinity",
    "0x10",
    "1_0",
    "%D9%A5",
    "9" * 18,
    "9" * 19,
    DIGITS,
    "null",
    "true",
    "[]",
    "{}",
    "a" * 5000,
    "'",
    "%22",
    "%25",
    "*",
    "_",
    "\\",
    "%E2%80%AE",
    "%1b%5B31m",
    "0001-01-01T00:00:00%2B23:59",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59.9999999Z",
    "0000-00-00",
    "2026-01-01T00:00:00%2B24:00",
    "2026-W01-1T00:00Z",
    "2026-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:00:00%2B00:00:00.000001",
    "2016-12-31T23:59:60Z",
    "queued",
    "failed",
    "a,b",
    "a&limit=2",
    "1&X=2",
]
#: The same for headers, in bytes.
NASTY_HEADERS = [
    "",
    "\xff",
    "a\tb",
    "-1",
    "1",
    DIGITS[:5000],
    "\xd9\xa5",
    "nan",
    "*",
    '"',
    '"a',
    'W/"a"',
    '"a", "b"',
    "bytes",
    "bytes=",
    "bytes=0-",
    "bytes=-0",
    "bytes=-1",
    "bytes=5-1",
    "bytes=0-0,1-1",
    "bytes=999999999999999999999-",
    "bytes=a-b",
    "bytes=-" + DIGITS,
    "items=0-1",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="',
    "multipart/form-data; boundary=" + "x" * 300,
    "multipart/form-data; boundary=\xff",
    "multipart/form-data; charset=x; boundary=x",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain; charset=nonsense",
    "a/b; q=x",
    "/",
    ";",
    "=",
    "\x85",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Thu, 99 Foo 0000 99:99:99 GMT",
    "a" * 300,
]
HEADERS = [
    "Accept",
    "Accept-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Host",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Origin",
    "Range",
    "Referer",
    "X-Forwarded-For",
    "X-HTTP-Method-Override",
]
#: Texts in the place of JSON.
NASTY_JSON = [
    "",
    "null",
    "true",
    "[]",
    "{}",
    "1",
    '""',
    "nan",
    "NaN",
    "[NaN]",
    '{"a": Infinity}',
    "-Infinity",
    "1e999",
    DIGITS,
    f"[{DIGITS}]",
    f'{{"timeout": {DIGITS}}}',
    '{"timeout": 1e999}',
    '{"timeout": 1e308}',
    '"\\ud800"',
    '["\\ud800"]',
    '{"\\ud800": 1}',
    '{"name": "\\ud800"}',
    '{"args": ["\\ud800"]}',
    '{"args": ["\\u0000"]}',
    '{"env": {"A": "\\ud800"}}',
    '{"env": {"\\ud800": "a"}}',
    '{"root": "\\ud800"}',
    '{"name": "\\u0000"}',
    '{"artifacts": ["\\ud800"]}',
    DEEP,
    WIDE,
    "\xef\xbb\xbf{}",
    "{",
    '{"a": 1, "a": 2}',
    '{"protocol": 1e9}',
    '{"protocol": "1"}',
    '{"memory": -1}',
    '{"memory": "9999999999999999999g"}',
    '{"cpus": 1e308}',
    '{"restarts": 99999999999999999999}',
    '{"python": "\\ud800"}',
    '{"image": "\\ud800"}',
    '{"services": [{"name": "\\ud800", "image": "x"}]}',
    '{"jobs": ["\\ud800"]}',
    '{"pipeline": "\\ud800"}',
    '{"secrets": {"A": "\\ud800"}}',
    '{"secrets": {"\\ud800": "x"}}',
    '{"tag": "\\ud800"}',
    '{"changed": ["\\ud800"]}',
    '{"plan": {}}',
    '{"plan": {"name": "\\ud800"}}',
    '{"files": []}',
    '{"files": [["\\ud800", 420, 1, "a"]]}',
    '{"files": [["a.py", 420, 99999999999999999999999, "%s"]]}' % ("0" * 64),
    '{"files": [["a.py", "x", 1, null]]}',
    '{"files": [["ci.yaml", "a: [[[[["]]}',
    '{"files": [["ci.yaml", "\\ud800"]]}',
    '{"files": [["ci.yaml", "&a [*a]"]]}',
    '{"files": [], "root": "\\ud800"}',
    '{"files": [], "mtimes": {"a": 1e999}}',
    f'{{"files": [], "mtimes": {{"a": {DIGITS}}}}}',
    '{"failed": "yes"}',
    '{"stage": "\\ud800"}',
    '{"job": "\\ud800"}',
    '["%s"]' % ("0" * 64),
    '["%s"]' % ("A" * 64),
]


class Fuzzed:
    """A runner with something of every kind, and a connection that says what it likes."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.person = runner.person()
        job = runner.job(self.person)
        runner.log(job.id, "text")
        runner.finish(job.id)
        other = runner.job(runner.person())
        self.run = self._run(self.person)
        self.known = {
            "job_id": [job.id, other.id],
            "run_id": [self.run["run_id"], self._run(runner.person())["run_id"]],
            "name": [self.run["pipeline"]],
            "run_number": ["1", "2"],
            "stage": ["test"],
            "job": ["unit"],
            "path": ["test_one.py"],
        }
        self._connection: http.client.HTTPConnection | None = None

    def _run(self, person: Person) -> dict[str, Any]:
        text = "name: ci\nstages: [test]\njobs: [{name: unit, stage: test}]\n"
        project = zip_of({"test_one.py": b"", ".pipelines/ci.yaml": text.encode()})
        response = self.runner.submit(person, project, path="/runs")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        person: Person | None = None,
    ) -> int:
        """Send one request and hold its answer against the description; its status."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.runner.server.port, timeout=60)
        sent: dict[str, str | bytes] = {
            "Authorization": (person or self.person).headers["Authorization"],
            **{name: value.encode("latin-1") for name, value in (headers or {}).items()},
        }
        self._connection.request(method, target, body, sent)
        response = self._connection.getresponse()
        streamed = (response.getheader("Content-Type") or "").startswith("text/event-stream")
        content = b"" if streamed else response.read()
        if streamed or response.getheader("Connection") == "close":
            self._connection.close()
            self._connection = None
        assert response.status < 500 or (response.status == 503 and target.startswith("/ready")), (
            method,
            target[:500],
            headers,
            content[:500],
        )
        validate_answer(
            method,
            urlsplit(target).path,
            response.status,
            CaseInsensitiveDict(response.getheaders()),
            content,
        )
        return response.status

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def targets(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Each operation: method, path with known values, description."""
        for template, operations in plain_document()["paths"].items():
            path = template
            for name, values in self.known.items():
                path = path.replace("{" + name + "}", values[0])
            for method, operation in operations.items():
                yield method.upper(), path, operation


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    many = 10**6
    serve = ServeSettings(
        threads=8,
        max_streams=64,
        max_streams_per_user=64,
        heartbeat=0.2,
        wrong_keys=many,
        max_queued_per_user=many,
        max_upload=8 << 20,
    )
    with running(tmp_path_factory.mktemp("data"), serve) as runner:
        found = Fuzzed(runner)
        yield found
        found.close()


@pytest.mark.every(2)
def test_every_parameter_of_every_route_by_the_description(fuzzed: Fuzzed) -> None:
    """Schemathesis, with a fixed seed and a bounded number of examples, in an environment of its own."""
    task = {
        "url": fuzzed.runner.url,
        "key": fuzzed.person.key,
        "examples": EXAMPLES,
        "known": fuzzed.known,
    }
    uv = Path(sys.executable).with_name("uv")
    command = [
        os.fspath(uv) if uv.exists() else "uv",
        *("run", "--quiet", "--no-project", "--python", sys.executable),
        *("--script", os.fspath(HERE / "fuzz_api.py"), json.dumps(task)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["problems"] == []
    answered = {place.rpartition(" ")[0] for place in found["statuses"]}
    described = {
        f"{method.upper()} {path}" for path, methods in document()["paths"].items() for method in methods
    }
    assert described - answered <= {"GET /openapi.json"}, "every operation is asked"
    assert found["asked"] >= len(described) * EXAMPLES
    assert sum(place.endswith(" 200") for place in found["statuses"]) > 10, "some of it makes sense"


def test_values_that_parsers_stumble_over_in_every_query(fuzzed: Fuzzed) -> None:
    for method, path, operation in fuzzed.targets():
        for parameter in operation.get("parameters", ()):
            if parameter["in"] != "query" or method not in ("GET", "DELETE"):
                continue
            for value in NASTY:
                target = f"{path}?{parameter['name']}={value}"
                status = fuzzed.ask(method, target)
                assert status != 401, target


def test_values_that_parsers_stumble_over_in_every_path(fuzzed: Fuzzed) -> None:
    for place, (template, operations) in enumerate(document()["paths"].items()):
        for name in fuzzed.known:
            if "{" + name + "}" not in template:
                continue
            for value in NASTY[place % 3 :: 3]:  # each value at every third route
                path = template.replace("{" + name + "}", value.replace("&", "%26"))
                for other, values in fuzzed.known.items():
                    path = path.replace("{" + other + "}", values[0])
                for method in operations:
                    fuzzed.ask(method.upper(), path)


def test_headers_that_parsers_stumble_over(fuzzed: Fuzzed) -> None:
    job, run = fuzzed.known["job_id"][0], fuzzed.known["run_id"][0]
    artifact = f"/jobs/{job}/artifacts/test_one.py"
    routes: list[tuple[str, str, list[str]]] = [
        ("GET", "/jobs", HEADERS),
        ("GET", artifact, ["Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since"]),
        ("GET", f"/jobs/{job}/stream?view=all", ["Last-Event-ID"]),
        ("GET", f"/runs/{run}/stream", ["Last-Event-ID"]),
        ("POST", "/blobs/missing", ["Content-Type", "Content-Encoding"]),
        ("POST", "/submit-async", ["Content-Type", "Content-Encoding", "Idempotency-Key"]),
        ("POST", "/runs", ["Content-Type", "Idempotency-Key"]),
        ("POST", f"/runs/{run}/rerun", ["Content-Type", "Idempotency-Key"]),
    ]
    for method, path, names in routes:
        for name in names:
            for value in NASTY_HEADERS:
                fuzzed.ask(method, path, b"--x--" if method == "POST" else None, {name: value})


def test_json_that_parsers_stumble_over(fuzzed: Fuzzed) -> None:
    for text in NASTY_JSON:
        body = text.encode("utf-8", "surrogatepass")
        kind = {"Content-Type": "application/json"}
        for path in ("/blobs/missing", "/pipelines/check", f"/runs/{fuzzed.known['run_id'][0]}/rerun"):
            fuzzed.ask("POST", path, body, kind)
        fuzzed.ask("POST", "/pipelines/check", b'{"files": [], "plan": ' + body + b"}", kind)
        for route in ("/submit-async", "/runs"):
            for part in ("options", "manifest"):
                parts = [(part, body)] if part == "manifest" else [(part, body), ("file", PROJECT)]
                fuzzed.ask("POST", route, form(*parts), FORM)


# -- multipart

FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in parts
    )
    return body + b"--x--\r\n"


DISPOSITIONS = [
    b"",
    b"form-data",
    b"form-data; name",
    b"form-data; name=",
    b'form-data; name=""',
    b'form-data; name="file',
    b'form-data; name="\xff"',
    b'form-data; name="\xc3"',
    b"form-data; name=\xff",
    b'form-data; name="file"; filename="\xff"',
    b"form-data; name*=UTF-8''%ff",
    b"form-data; name*=nonsense''x",
    b"form-data; name*0=fi; name*1=le",
    b"form-data; name*=x",
    b"form-data; name=\"file\"; filename*=UTF-8''%ff",
    b"form-data; name=\"file\"; filename*=nonsense''a",
    b"attachment; name=file",
    b'form-data; name="file"; name="options"',
    b'form-data; name="\0"',
    b'form-data; name="' + b"x" * 5000 + b'"',
    b'"',
    b";;;",
    b"\xff",
    b'form-data; name="\\',
    b'form-data;name="file";',
    b'FORM-DATA; NAME="file"',
    b'form-data; name="options"; filename="../../x"',
]
PART_HEADERS = [
    b"Content-Type: \xff",
    b"Content-Type: text/plain; charset=nonsense",
    b"Content-Type: text/plain; charset=\xff",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: nonsense",
    b"Content-Length: -1",
    b"Content-Encoding: gzip",
    b"Content-Type: multipart/mixed; boundary=x",
    b"\xff: x",
    b"no colon",
    b": x",
    b" folded",
    b"A: " + b"b" * 100_000,
    b"\r\n".join(b"A%d: b" % number for number in range(2000)),
    b"Content-Disposition: form-data; name=twice",
]
BODIES = [
    b"",
    b"x",
    b"--",
    b"--x",
    b"--x\r\n",
    b"--x--",
    b"--x--\r\n",
    b"--x\r\n\r\n",
    b"--x\r\n\r\n--x--",
    b"\r\n--x--\r\n",
    b"--x\n\n--x--\n",
    b"--y\r\n\r\n\r\n--y--\r\n",
    b"--x\r\n" * 1000,
    b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n',
    b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x',
    b"-" * 100_000,
    b"\r\n" * 50_000,
    form(*[(f"part{number}", b"") for number in range(100)]),
    form(("file", b""), ("file", b"")),
    form(("file", PROJECT)) + b"rest",
    form(("file", PROJECT))[:-8],
    form(("options", b"{}")),
    form(("manifest", b"{}"), ("file", b"")),
    form(("x", b"x" * 1_000_000)),
]


def test_forms_that_parsers_stumble_over(fuzzed: Fuzzed) -> None:
    bodies = list(BODIES)
    for disposition in DISPOSITIONS:
        bodies.append(
            b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + PROJECT + b"\r\n--x--\r\n"
        )
    for header in PART_HEADERS:
        named = b'Content-Disposition: form-data; name="file"\r\n' + header
        bodies.append(b"--x\r\n" + named + b"\r\n\r\n" + PROJECT + b"\r\n--x--\r\n")
        bodies.append(b"--x\r\n" + header + b"\r\n\r\nabc\r\n--x--\r\n")
    for route in ("/submit", "/submit-stream", "/submit-async", "/runs"):
        for body in bodies:
            fuzzed.ask("POST", route, body, FORM)


@SOME
@given(
    content=st.binary(max_size=400),
    start=st.integers(0, 300),
    route=st.sampled_from(["/submit-async", "/runs"]),
)
@example(
    content=b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\r\n', start=0, route="/submit-async"
)
def test_mutated_forms(fuzzed: Fuzzed, content: bytes, start: int, route: str) -> None:
    whole = form(("options", b'{"args": ["-v"]}'), ("file", PROJECT))
    fuzzed.ask("POST", route, whole[:start] + content + whole[start + len(content) :], FORM)


def archive(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        change(opened)
    return target.getvalue()


@SOME
@given(data=st.data())
def test_mutated_archives(fuzzed: Fuzzed, data: st.DataObject) -> None:
    whole = bytearray(zip_of({"a.py": b"x" * 300, "b/c.py": b"", "pyproject.toml": b"[project]\nname='a'\n"}))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
        if not whole:
            break
    fuzzed.ask("POST", "/submit-async", form(("file", bytes(whole))), FORM)


@SOME
@given(name=st.text(max_size=30), content=st.binary(max_size=50))
def test_any_name_in_an_archive_and_a_manifest(fuzzed: Fuzzed, name: str, content: bytes) -> None:
    try:
        sent = archive(lambda opened: opened.writestr(name, content))
    except (UnicodeError, IndexError):
        sent = b""  # zipfile cannot write it
    fuzzed.ask("POST", "/submit-async", form(("file", sent)), FORM)
    manifest = Manifest((), root=None).to_dict() | {
        "files": [[name, 420, len(content), "0" * 64]],
        "root": name,
    }
    fuzzed.ask("POST", "/submit-async", form(("manifest", json.dumps(manifest).encode())), FORM)


@SOME
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=10,
    ),
    name=st.sampled_from(
        [
            *(
                "protocol",
                "args",
                "name",
                "env",
                "python",
                "image",
                "timeout",
                "memory",
                "cpus",
                "priority",
                "root",
            ),
            *("services", "artifacts", "reports", "artifacts_when", "artifacts_days", "records", "restarts"),
            "interpreter_options",
            "project_folder",
            "keep",
            "packages",
            "git",
            "pip",
            "timing",
            *(
                "plan",
                "pipeline",
                "stages",
                "jobs",
                "changed",
                "tag",
                "keep_going",
                "secrets",
                "submit",
                "script",
            ),
        ]
    ),
)
def test_any_value_of_an_option(fuzzed: Fuzzed, value: Any, name: str) -> None:
    text = json.dumps({name: value}).encode()
    for route in ("/submit-async", "/runs"):
        fuzzed.ask("POST", route, form(("options", text), ("file", PROJECT)), FORM)
    fuzzed.ask("POST", "/pipelines/check", text, {"Content-Type": "application/json"})


@SOME
@given(text=st.text(max_size=80), name=st.sampled_from(["ci.yaml", "pyproject.toml", ".pipelines/x.yml"]))
@example(text="a: &a [*a]", name="ci.yaml")
@example(text="a: " + "[" * 5000, name="ci.yaml")
@example(text="a = " + "[" * 5000, name="pyproject.toml")
@example(text=f"a = {DIGITS}", name="pyproject.toml")
@example(text=f"a: {DIGITS}", name="ci.yaml")
@example(text="a: 0001-01-01T00:00:00+23:59", name="ci.yaml")
@example(text="a = 0001-01-01T00:00:00+23:59", name="pyproject.toml")
@example(text="a: !!python/object/apply:os.system [id]", name="ci.yaml")
@example(text="a: " + "b" * 300_000, name="ci.yaml")
def test_any_text_of_a_pipeline_file(fuzzed: Fuzzed, text: str, name: str) -> None:
    question = json.dumps({"files": [[name, text]], "plan": {}}).encode()
    fuzzed.ask("POST", "/pipelines/check", question, {"Content-Type": "application/json"})
    project = zip_of(
        {name: text.encode("utf-8", "replace"), ".pipelines/ci.yaml": text.encode("utf-8", "replace")}
    )
    fuzzed.ask("POST", "/runs", form(("file", project)), FORM)


def test_times_at_the_ends_of_the_calendar(fuzzed: Fuzzed) -> None:
    for path in ("/jobs", "/runs", "/reports/pipelines"):
        for since in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
            assert fuzzed.ask("GET", f"{path}?since={quote(since)}") in (200, 422)
        assert fuzzed.ask("GET", f"{path}?since={quote('0001-01-01T00:00:00+23:59')}") == 422
