"""A server on the loopback that behaves badly in one way; what it should serve is a table of paths and bytes."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from verlock.system import loopback

SECRET = "hunter2-never-shown"
LOGIN = b"<html><title>Sign in</title><form action=/login>please sign in</form></html>"


class Handler(loopback.Handler):
    """Finds the body of a path; how that goes wrong is in `WAYS`."""

    contents: Mapping[str, bytes]
    way: Callable[[Handler, bytes], None]

    def do_GET(self) -> None:
        body = self.contents.get(self.path.partition("?")[0].rstrip("/"))
        with contextlib.suppress(ConnectionError):  # a client that gives up is what is wanted
            if body is None:
                self.answer(404)
            else:
                type(self).way(self, body)
        if self.close_connection:
            return

    do_HEAD = do_GET

    def kind(self) -> str:
        return "text/html" if "/simple" in self.path and not self.path.endswith(".whl") else "application/octet-stream"

    def begin(self, length: int | None) -> None:
        """An answer's head that names this length (or none), after which the connection ends."""
        self.send_response(200)
        self.send_header("Content-Type", self.kind())
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def body(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()


def _good(handler: Handler, body: bytes) -> None:
    handler.answer(200, body, Content_Type=handler.kind())


def _status(status: int, **headers: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, body: handler.answer(status, b"no", **headers)


def _stalls(handler: Handler, body: bytes) -> None:
    time.sleep(40)
    handler.close_connection = True


def _stalls_in_the_body(handler: Handler, body: bytes) -> None:
    handler.begin(len(body))
    handler.body(body[: len(body) // 2])
    time.sleep(40)


def _drips(handler: Handler, body: bytes) -> None:
    handler.begin(len(body))
    step = max(1, len(body) // 10)
    for start in range(0, len(body), step):
        handler.body(body[start : start + step])
        time.sleep(0.03)


def _cut(handler: Handler, body: bytes) -> None:
    handler.begin(len(body))
    handler.body(body[: len(body) // 2])


def _cut_without_length(handler: Handler, body: bytes) -> None:
    handler.begin(None)
    handler.body(body[: len(body) // 2])


def _says_more(handler: Handler, body: bytes) -> None:
    handler.begin(len(body) + 1000)
    handler.body(body)


def _says_less(handler: Handler, body: bytes) -> None:
    handler.begin(len(body) - 9)
    handler.body(body[:-9])


def _loop(handler: Handler, body: bytes) -> None:
    handler.answer(302, b"", Location=handler.path)


def _login(handler: Handler, body: bytes) -> None:
    handler.answer(200, LOGIN, Content_Type="text/html")


def _empty(handler: Handler, body: bytes) -> None:
    handler.answer(200, b"", Content_Type=handler.kind())


def _other_bytes(handler: Handler, body: bytes) -> None:
    handler.answer(200, _other(body), Content_Type=handler.kind())


def _other(body: bytes) -> bytes:
    """Other bytes that are as good a wheel: another time of its first file. What is no wheel stays as it is."""
    end = body.rfind(b"PK\x05\x06")
    if end < 0:
        return body
    listing = int.from_bytes(body[end + 16 : end + 20], "little")
    changed = bytearray(body)
    for place in (10, listing + 12):  # in the file's own head, and in the list at the end
        changed[place] ^= 0x20
    return bytes(changed)


def _no_http(handler: Handler, body: bytes) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True


def _hangs_up(handler: Handler, body: bytes) -> None:
    handler.close_connection = True


def _wants_a_login(handler: Handler, body: bytes) -> None:
    wanted = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    if handler.headers.get("Authorization") == wanted:
        _good(handler, body)
    else:
        handler.answer(401, b"", WWW_Authenticate='Basic realm="x"')


WAYS: dict[str, Callable[[Handler, bytes], None]] = {
    "good": _good,
    "stalls": _stalls,
    "stalls in the body": _stalls_in_the_body,
    "drips": _drips,
    "cuts off": _cut,
    "cuts off, no length": _cut_without_length,
    "length too long": _says_more,
    "length too short": _says_less,
    "500": _status(500),
    "503": _status(503, Retry_After="1"),
    "429": _status(429, Retry_After="1"),
    "404": _status(404),
    "403": _status(403),
    "401": _status(401, WWW_Authenticate='Basic realm="x"'),
    "redirect loop": _loop,
    "redirect to nowhere": _status(302, Location="http://127.0.0.1:9/nowhere"),
    "login page, 200": _login,
    "nothing, 200": _empty,
    "other bytes": _other_bytes,
    "speaks no HTTP": _no_http,
    "hangs up": _hangs_up,
    "login in the address": _wants_a_login,
}


@contextlib.contextmanager
def serve(way: str, contents: Mapping[str, bytes]) -> Iterator[str]:
    """Serve `contents` (path -> bytes) in this way while this is open; gives the address."""
    made = type("Made", (Handler,), {"contents": contents, "way": staticmethod(WAYS[way])})
    with loopback.serve(made) as address:
        yield address
