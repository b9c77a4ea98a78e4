"""A web server that receives webhooks."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """A web server that answers with what it is told to, then with 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self._refused: dict[bytes, list[int]] = {}
        self.received: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append((headers, body))
                status = receiver.status_for(body)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def refuse(self, word: str, *statuses: int) -> None:
        """Answer with these to what has a word in its body, before accepting it."""
        self._refused[word.encode()] = list(statuses)

    def status_for(self, body: bytes) -> int:
        """The next answer."""
        for word, statuses in self._refused.items():
            if word in body and statuses:
                return statuses.pop(0)
        return self.answers.pop(0) if self.answers else 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
