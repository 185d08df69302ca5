"""HTTP server on loopback that fails on request."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """What a test says to its server and hears from it.

    Args:
        url: Of the served folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.faults: dict[str, list[int | str]] = defaultdict(list)

    def count(self, name: str) -> int:
        """Say how often a file was asked for."""
        return self.asked.count(name)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; the next fault of a file, where there is one, comes before its bytes."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments, told: Server, **options) -> None:
        self.told = told
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        self.told.asked.append(name)
        fault = self.told.faults[name].pop(0) if self.told.faults[name] else None
        if fault is None:
            super().do_GET()
        elif isinstance(fault, int):
            self.send_error(fault)
        else:
            getattr(self, f"_{fault}")(Path(self.translate_path(self.path)).read_bytes())

    def _answer(self, data: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def _half(self, data: bytes) -> None:
        """Promise all and break off."""
        self._answer(data[: len(data) // 2], len(data))
        self.close_connection = True

    def _short(self, data: bytes) -> None:
        """Send half a file as if it were all."""
        self._answer(data[: len(data) // 2], len(data) // 2)

    def _damaged(self, data: bytes) -> None:
        self._answer(data[:600] + b"?" + data[601:], len(data))

    def _silent(self, data: bytes) -> None:
        """Send a little, then nothing for longer than a test waits."""
        self._answer(data[:100], len(data))
        self.wfile.flush()
        time.sleep(3)
        self.close_connection = True

    def _closed(self, data: bytes) -> None:
        self.close_connection = True

    def log_message(self, *_) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder for as long as the block lasts."""
    told = Server("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder), told=told))
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
