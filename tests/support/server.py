"""A local image server that sometimes fails, truncates responses and stalls."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

JPEG = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()


class BadServer(ThreadingHTTPServer):
    """Serve JPEGs unreliably: the nth request for a path gets the nth trouble of its list."""

    troubles: dict[str, list[str]]
    requests: Counter[str]
    at_once: int
    max_at_once: int
    lock: threading.Lock


class _Handler(BaseHTTPRequestHandler):
    server: BadServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            nth = server.requests[self.path]
            server.requests[self.path] += 1
            server.at_once += 1
            server.max_at_once = max(server.max_at_once, server.at_once)
        troubles = next((todo for end, todo in server.troubles.items() if self.path.endswith(end)), [])
        try:
            self._answer(troubles[nth] if nth < len(troubles) else "")
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, trouble: str) -> None:
        time.sleep(0.01)
        if trouble.isdigit():
            self.send_response(int(trouble))
            if trouble == "429":
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if trouble != "cut without a length":
            self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        if trouble == "stall":
            self.wfile.write(JPEG[:40])
            self.wfile.flush()
            time.sleep(1.0)
        elif trouble == "drip":
            for byte in JPEG:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.1)
        elif trouble.startswith("cut"):
            self.wfile.write(JPEG[:-20])
        elif trouble == "page":
            self.wfile.write(b"<html>" + b" " * (len(JPEG) - 6))
        else:
            self.wfile.write(JPEG)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client abandoned a stalled response
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def bad_server() -> Iterator[BadServer]:
    """Run a server on a free port of this machine."""
    with BadServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.troubles, server.requests, server.lock = {}, Counter(), threading.Lock()
        server.at_once = server.max_at_once = 0
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
