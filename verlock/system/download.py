"""Downloads: the one way in which verlock itself fetches over HTTP.

What passes by itself (no connection, 5xx, 408, 429) is tried again after a pause that grows and differs; an answer that
was cut off goes on where it ended; any other refusal is final. Proxies, NO_PROXY, netrc and certificates are the user's:
OpenSSL's store (SSL_CERT_FILE, SSL_CERT_DIR) and the bundle that REQUESTS_CA_BUNDLE, PIP_CERT or CURL_CA_BUNDLE names, else
certifi's. A name and password in a URL become authentication, and no message shows them.

requests is imported in functions only: its import takes as long as a run of `create` that finds nothing to do.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from verlock import console, paths
from verlock.errors import IntegrityError, NetworkError
from verlock.system import addresses, files, process

PLACE = "VERLOCK_ARTEFACTS"  # the variable with the user's own folder or mirror
_RETRIES = 3  # in a row without anything gained
_SILENCES = 2  # so many in a row, and the host is given up: each lasts _SILENT_SECONDS
_BACK_OFF = 0.5  # seconds; the pauses are 0, 1 and 2 seconds, each up to half a second longer
_LONGEST_PAUSE = 60  # seconds, also where a host asks for more (Retry-After)
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 30.0
_REACHABLE_SECONDS = 3.0
_BLOCK = 1 << 20  # bytes; so much more than ever before counts as something gained
OFFLINE = "this run is offline"
_PUT_IT = f"put the file into a folder and name that folder in {PLACE}"


class _Failure(Exception):
    """One try failed: with which error, whether another may help, whether this one brought anything, or only a long silence."""

    def __init__(
        self, error: NetworkError, *, passing: bool, answer: Any = None, gained: bool = False, silent: bool = False
    ) -> None:
        super().__init__()
        self.error, self.passing, self.gained, self.silent = error, passing, gained, silent
        self.raw = None if answer is None else answer.raw


def session() -> Any:
    """A requests.Session that trusts what the user trusts; to be closed."""
    import ssl

    import requests

    class Adapter(requests.adapters.HTTPAdapter):
        """Adds the certificates of OpenSSL's own store, which requests does not look at, to those that requests knows."""

        def init_poolmanager(self, *arguments: Any, **more: Any) -> Any:
            return super().init_poolmanager(*arguments, **more, ssl_context=ssl.create_default_context())

        def proxy_manager_for(self, *arguments: Any, **more: Any) -> Any:
            return super().proxy_manager_for(*arguments, **more, ssl_context=ssl.create_default_context())

    made = requests.Session()
    made.mount("https://", Adapter(pool_maxsize=16))
    made.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))
    return made


def get(session: Any, url: str, headers: Mapping[str, str] | None = None, *, page_is_fine: bool = False) -> Any:
    """A small answer, whole: a requests.Response whose status is below 400, or is 404.

    Args:
        session: from `session`.
        url: may hold a name and a password.
        headers: of the request.
        page_is_fine: whether a web page may be what was asked for; else it is refused.

    Raises:
        NetworkError: the host does not answer, refuses, or sends a web page such as a login form.
    """
    import requests

    what = _name(url)

    def attempt() -> Any:
        with _asked(session, url, dict(headers or {}), what, final=(404,)) as answer:
            if not page_is_fine and answer.status_code != 404:
                _refuse_page(answer, what)
            try:
                answer.content  # noqa: B018 (it is read here, while the connection is open)
            except requests.RequestException as error:
                raise _Failure(_explained(error, answer.url, what), passing=True) from None
            return answer

    return _patiently(attempt)


def fetch(url: str, into: Path, sha256: str, tell: Callable[[str], None] = lambda text: None) -> None:
    """Download a file to the path `into`.

    Args:
        url: may hold a name and a password.
        into: written as the bytes come; whoever calls gives a draft's name and removes what an error leaves.
        sha256: what it must have, in hex.
        tell: called now and then with how much came, such as "120 of 256 MB" (without "of" where the host does not say).

    Raises:
        NetworkError: the host does not answer, refuses, sends a web page, or the file was cut off time and again.
        IntegrityError: all of it came, and it has another sha256.
    """
    with session() as open_session, into.open("wb") as out:
        partial = _Partial(open_session, url, out, tell)
        _patiently(partial.go_on)
    if (got := files.sha256(into)) != sha256:
        raise IntegrityError.of(
            f"{_name(url)} from {addresses.host(url)}",
            f"sha256:{sha256}",
            f"sha256:{got}",
            "the file was replaced where it came from",
        )


def fetch_first(
    places: Sequence[Path | str], into: Path, sha256: str, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Copy or download a file to `into` from the first of some places (paths and URLs) that has it.

    Raises:
        NetworkError: none has it; each is named with its reason.
        IntegrityError: a place has other bytes under that name.
    """
    reasons = []
    for place in places:
        if isinstance(place, Path):
            if not place.is_file():
                reasons.append(f"{place.parent} has no {place.name}")
                continue
            shutil.copyfile(place, into)
            if (got := files.sha256(into)) != sha256:
                bundle = paths.bundle_dir()
                carried = bundle is not None and place.is_relative_to(bundle)
                raise IntegrityError.of(
                    str(place),
                    f"sha256:{sha256}",
                    f"sha256:{got}",
                    "copy the bundle here again"
                    if carried
                    else f"remove it from the folder {PLACE}, or copy it there again",
                )
            return None
        try:
            return fetch(place, into, sha256, tell)
        except NetworkError as error:
            reasons.append(error.problem)
            remedy = error.remedy
            if len(places) == 1:
                raise NetworkError(error.problem, remedy or _PUT_IT) from None
    raise NetworkError("; ".join(dict.fromkeys(reversed(reasons))), _PUT_IT)


def users_places(name: str) -> list[Path | str]:
    """Where files may lie that need no host: in the bundle of this run, and in the user's own place.

    That is `VERLOCK_ARTEFACTS`, a folder or a base URL; a folder that is not there is said, once, and counts as none.
    """
    bundle = paths.bundle_dir()
    carried = [bundle / folder / name for folder in ("artefacts", "wheels")] if bundle else []
    return [*(path for path in carried if path.is_file()), *_users_own(name)]


def _users_own(name: str) -> list[Path | str]:
    given = os.environ.get(PLACE, "").strip()
    if not given:
        return []
    if "://" in given and not given.lower().startswith("file:"):
        return [f"{given.rstrip('/')}/{quote(name)}"]
    folder = Path(unquote(urlsplit(given).path) if "://" in given else given)
    if not folder.is_dir():
        _warn_once(f"{PLACE} names {folder}, which is no folder: it is passed over")
        return []
    return [folder / name]


def reachable(urls: Iterable[str]) -> bool:
    """Does one of these URLs answer as a file would? Takes 3 seconds at most, downloads nothing and tries nothing twice.

    `create` asks at every run of an incomplete environment, mostly on machines that cannot reach the host at all. So where no
    proxy stands between, a bare connection is tried first, and requests is imported only when that is accepted.
    """
    found = threading.Event()
    left = threading.Semaphore(0)
    urls = list(urls)

    def look(url: str) -> None:
        try:
            if _answers(url):
                found.set()
        finally:
            left.release()

    def wait() -> None:
        for _ in urls:
            left.acquire()
        over.set()

    over = threading.Event()
    for url in urls:
        # not waited for after the deadline: a name server that does not answer holds a thread for half a minute
        threading.Thread(target=look, args=(url,), daemon=True).start()
    threading.Thread(target=wait, daemon=True).start()
    over.wait(_REACHABLE_SECONDS)
    return found.is_set()


def connect(url: str, seconds: float) -> None:
    """Open a connection to the host of an address and close it; behind a proxy nothing is done. Raises OSError or ValueError."""
    if paths.offline():
        raise ConnectionError(OFFLINE)
    if not process.proxied(os.environ):
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=seconds).close()


def _answers(url: str) -> bool:
    try:
        connect(url, _REACHABLE_SECONDS)
        with session() as once, _asked(once, url, {"Range": "bytes=0-0"}, "", seconds=_REACHABLE_SECONDS) as answer:
            _refuse_page(answer, "")
    except (OSError, ValueError, _Failure):
        return False
    return True


@dataclass
class _Partial:
    """A file on its way, over as many tries as it takes."""

    session: Any
    url: str
    out: BinaryIO
    tell: Callable[[str], None]
    done: int = 0
    most: int = 0
    mark: str = ""  # what the host knows this state of the file by; without one a second try starts at the first byte

    def go_on(self) -> None:
        """One try, from where the last one ended. Raises _Failure."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        what = _name(self.url)
        headers = {"Accept-Encoding": "identity"}
        if self.done and self.mark:
            headers |= {"Range": f"bytes={self.done}-", "If-Range": self.mark}
        with _asked(self.session, self.url, headers, what, final=(416,)) as answer:
            _refuse_page(answer, what)
            whole = self._place(answer)
            before, silent = self.most, False
            try:
                for block in answer.raw.stream(_BLOCK, decode_content=False):
                    self.out.write(block)  # a full disk is no matter of the network: it has an error of its own
                    self.done += len(block)
                    self.most = max(self.most, self.done)
                    size = f" of {whole / 1e6:.0f}" if whole else ""
                    self.tell(f"{self.done / 1e6:.0f}{size} MB")
                cut = f"after {self.done} of {whole} bytes" if whole is not None and self.done < whole else ""
            except HTTPError as failed:
                silent = isinstance(failed, ReadTimeoutError)
                cut = f"after {self.done} of {whole} bytes" if whole else f"after {self.done} bytes"
            if cut or answer.status_code == 416:
                where = addresses.host(answer.url)
                error = NetworkError(f"{where} does not give {what}: the connection ended {cut}", _PUT_IT)
                raise _Failure(error, passing=True, gained=self.most >= before + _BLOCK, silent=silent)

    def _place(self, answer: Any) -> int | None:
        """Go to the place in the file that this answer begins at; returns how long the whole file is, if that is known."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if answer.status_code == 206 and span and int(span[1]) == self.done:
            return int(span[2]) if span[2] != "*" else None
        if self.done:
            self.done = 0
            self.out.seek(0)
            self.out.truncate()
        tag = answer.headers.get("ETag", "")
        self.mark = (
            tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
        )  # a weak tag may not be used here
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None


def _patiently(attempt: Callable[[], Any]) -> Any:
    """Try until it works, or until that is hopeless. Raises the NetworkError of the last try."""
    from urllib3.exceptions import InvalidHeader, MaxRetryError
    from urllib3.util.retry import Retry

    fresh = Retry(_RETRIES, backoff_factor=_BACK_OFF, backoff_jitter=_BACK_OFF, retry_after_max=_LONGEST_PAUSE)
    policy, silences = fresh, 0
    while True:
        try:
            return attempt()
        except _Failure as failure:
            failed = failure
        silences = silences + 1 if failed.silent and not failed.gained else 0
        if not failed.passing or silences == _SILENCES:
            raise failed.error
        try:
            policy = (fresh if failed.gained else policy).increment("GET")
        except MaxRetryError:
            raise failed.error from None
        try:
            policy.sleep(failed.raw)
        except InvalidHeader:  # a Retry-After that is neither seconds nor a date
            policy.sleep()


def _asked(
    session: Any,
    url: str,
    headers: dict[str, str],
    what: str,
    *,
    final: tuple[int, ...] = (),
    seconds: float | None = None,
) -> Any:
    """The head of an answer, whose body is still to be read; `final`: refusals that the caller wants. Raises _Failure."""
    import requests

    if paths.offline():
        raise _Failure(
            NetworkError(f"{addresses.host(url)} is not asked for {what}: {OFFLINE}", _PUT_IT), passing=False
        )
    try:
        plain, login = addresses.split(url)
        answer = session.get(
            plain,
            auth=login,
            headers=headers,
            stream=True,
            timeout=(seconds or _CONNECT_SECONDS, seconds or _SILENT_SECONDS),
            verify=next((os.environ[name] for name in addresses.BUNDLES if os.environ.get(name)), True),
            proxies={"no_proxy": process.no_proxy(os.environ)},
        )
    except (OSError, ValueError) as error:
        passing = isinstance(error, (requests.ConnectionError, requests.Timeout)) and not _for_good(error)
        silent = isinstance(error, requests.ReadTimeout)
        raise _Failure(_explained(error, url, what), passing=passing, silent=silent) from None
    status = answer.status_code
    if status < 400 or status in final:
        return answer
    answer.close()
    where = addresses.host(answer.url)
    login_wanted = status in (401, 403, 407)
    refusal = NetworkError(
        f"{where} does not give {what}: it answers {status} {answer.reason or ''}".rstrip(),
        f"if {where} wants a login, give it in the URL or in ~/.netrc; or {_PUT_IT}" if login_wanted else _PUT_IT,
    )
    raise _Failure(refusal, passing=status >= 500 or status in (408, 429), answer=answer)


def _refuse_page(answer: Any, what: str) -> None:
    if answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() in (
        "text/html",
        "application/xhtml+xml",
    ):
        answer.close()
        where = addresses.host(answer.url)
        error = NetworkError(
            f"{where} sends a web page instead of {what}: most likely a login form, or the notice of a proxy",
            f"log in (with name and password in the URL or in ~/.netrc), or {_PUT_IT}",
        )
        raise _Failure(error, passing=False)


def _explained(error: Exception, url: str, what: str) -> NetworkError:
    """What the user is told: the host that really failed (the last one of a redirect), and why."""
    import requests

    request = getattr(error, "request", None)
    asked = str(getattr(request, "url", None) or url)
    where, reason = addresses.host(asked), addresses.scrubbed(innermost_reason(error))
    if isinstance(error, requests.exceptions.ProxyError):
        chosen = requests.utils.select_proxy(asked, requests.utils.get_environ_proxies(asked))
        return NetworkError(
            f"the proxy {addresses.host(str(chosen))} does not give {what} from {where}: {reason}",
            f"correct HTTPS_PROXY, or name {where} in NO_PROXY; or {_PUT_IT}",
        )
    if isinstance(error, requests.exceptions.SSLError):
        return NetworkError(
            f"{where} does not give {what}, as TLS fails: {reason}",
            f"if your organisation has certificates of its own, name their file in SSL_CERT_FILE; or {_PUT_IT}",
        )
    return NetworkError(f"{where} does not give {what}: {reason}", _PUT_IT)


def innermost_reason(error: BaseException) -> str:
    """The innermost reason, in the words of the operating system or of OpenSSL, without what libraries wrote around it."""
    found, inner = str(error), error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and str(inner):
            found = str(inner)
        inner = inner.__cause__ or inner.__context__
    return found


def _for_good(error: BaseException) -> bool:
    """No host of that name, a certificate that is not trusted, or a proxy that refuses: asking again changes nothing."""
    no_name = rf"\[Errno {socket.EAI_NONAME}\]"
    return bool(re.search(rf"{no_name}|CERTIFICATE_VERIFY_FAILED|Tunnel connection failed: 4", str(error)))


def _name(url: str) -> str:
    """The file's name in a URL, for people."""
    path = addresses.shown(url).partition("?")[0].partition("#")[0]
    return unquote(path.rstrip("/").rpartition("/")[2])


@functools.cache
def _warn_once(text: str) -> None:
    console.warn(text)
