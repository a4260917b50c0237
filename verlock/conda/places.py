"""Where the conda layer's packages come from: the mirrors in their order, then the channel.

The first place that gives the locked bytes counts. rattler's own mirrors stop at the first one that answers, be it with 404, so
verlock asks the places itself, with rattler's client: what rattler's configuration, its file of credentials (RATTLER_AUTH_FILE),
.netrc and a URL's own `user:password@` say about logins, certificates and proxies holds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from verlock.errors import IntegrityError, NetworkError, VerlockError, of_system
from verlock.system import addresses

TRIES = 3  # at each place, for what may pass: no connection, a broken one, a server's own error
PAUSE = 0.5  # seconds before the second try, twice that before the third
STALL = 15.0  # seconds without a byte
ASK = 5.0  # seconds for all places together to begin an answer
REMEDY = "set VERLOCK_CONDA_MIRROR to a mirror (a URL or a folder), or use `--base host`"

_NO_NAME = "no host has this name"  # as the name server says; what passes is that it says nothing
_STATUS = re.compile(r"\((\d{3}) ?([^)]*)\) for url \(([^)\s]+)\)")
_PASSING = frozenset({408, 425, 429})  # of the statuses below 500, those that a server gives for a while


def local_path(url: str) -> Path | None:
    """The path of a `file://` URL or of a plain path, else None."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(url) if not parts.scheme else None


def name_of(place: str) -> str:
    """A place as messages name it: the host of a URL, or the folder."""
    path = local_path(place)
    return addresses.host(place) if path is None else str(path)


class Refusal(Exception):
    """One place did not give a file. `passing`: it may do so at the next try; `dead`: it will not give any other file either."""

    def __init__(self, said: str, *, passing: bool = False, dead: bool = False) -> None:
        super().__init__(said)
        self.passing = passing
        self.dead = dead


class Draft:
    """A file that disappears when it is closed (or when this process is killed); counts and hashes what is written."""

    def __init__(self, folder: Path | None, *, enough: bool = False) -> None:
        self.failed: VerlockError | None = None  # what the disk refused
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (whoever asked for the file closes it)
        self.count = 0  # bytes
        self._total = hashlib.sha256()
        self._enough = enough

    def write(self, block: bytes) -> int:
        """Take some bytes; with `enough` the first of them end the download."""
        self.count += len(block)
        if self._enough:
            raise EOFError
        self._total.update(block)
        try:
            written = self.file.write(block)
            self.file.flush()  # so that a full disk is met here
            return written
        except OSError as error:
            self.failed = of_system(error)
            raise

    def sha256(self) -> str:
        """The hex sha256 of all that was written."""
        return self._total.hexdigest()


class Places:
    """The places of some channels.

    Args:
        client: rattler's, with no retries and no mirrors of its own.
        table: channel -> places (URLs or folders), best first.
        hashes: the locked hex sha256 of each file by channel and path in it.
        drafts: a folder for downloads; nothing is left in it.
        stall: seconds without a byte after which a download is given up.
    """

    def __init__(
        self,
        client: Any,
        table: Mapping[str, Sequence[str]],
        hashes: Mapping[tuple[str, str], str],
        drafts: Path | None = None,
        stall: float = STALL,
    ) -> None:
        self.table = table
        self.notes: list[str] = []  # what a place gave wrongly, for the user to know though another had it
        self.errors: list[VerlockError] = []
        self._client = client
        self._hashes = hashes
        self._drafts = drafts
        self._stall = stall
        self._dead: dict[str, str] = {}

    def get(self, channel: str, tail: str) -> IO[bytes]:
        """The file `tail` (such as linux-64/p-1-0.conda) of a channel, opened at its beginning, its hash checked.

        Raises:
            IntegrityError: no place has the locked bytes, and one has others.
            NetworkError: no place has the file; each is named with its reason.
        """
        said: dict[str, str] = {}
        wrong: IntegrityError | None = None
        for place in self.table[channel]:
            if place in self._dead:
                said[place] = self._dead[place]
                continue
            try:
                return self._checked(channel, place, tail)
            except IntegrityError as error:
                wrong = error
                self.notes.append(f"{name_of(place)} gives other bytes for {tail} than were locked, and is passed over")
            except Refusal as refusal:
                said[place] = str(refusal)
                if refusal.dead:
                    self._dead[place] = str(refusal)
        self.errors.append(wrong or _none_of(said, tail))
        raise self.errors[-1]

    def ask(self, channel: str, tail: str) -> None:
        """Whether one of the places begins to give a file, within `ASK` seconds. Raises NetworkError naming each place."""
        places = list(self.table[channel])
        said = dict.fromkeys(places, f"does not answer within {ASK:.0f} s")
        pool = ThreadPoolExecutor(max_workers=len(places))
        try:
            checks = {pool.submit(self._give, place, tail, enough=True): place for place in places}
            for check in as_completed(checks, timeout=ASK):
                try:
                    check.result().file.close()
                    return
                except Refusal as refusal:
                    said[checks[check]] = str(refusal)
        except concurrent.futures.TimeoutError:  # the built-in one only from Python 3.11 on
            pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        raise _none_of(said, tail)

    def _checked(self, channel: str, place: str, tail: str) -> IO[bytes]:
        draft = self._give(place, tail)
        wanted = self._hashes.get((channel, tail))
        if wanted and draft.sha256() != wanted:
            draft.file.close()
            remedy = "try another mirror; nothing of it was installed"
            raise IntegrityError.of(f"{tail} of {name_of(place)}", wanted, draft.sha256(), remedy)
        draft.file.seek(0)
        return draft.file

    def _give(self, place: str, tail: str, *, enough: bool = False) -> Draft:
        """What a place has under this name. Raises Refusal, or DiskTooSmall."""
        for attempt in range(TRIES):
            draft = Draft(self._drafts, enough=enough)
            try:
                if (folder := local_path(place)) is not None:
                    _copy(folder / tail, draft)
                else:
                    asyncio.run(self._download(f"{place.rstrip('/')}/{tail}", draft))
                return draft
            except Refusal as refusal:
                draft.file.close()
                if draft.failed:
                    self.errors.append(draft.failed)
                    raise draft.failed from None
                if attempt + 1 == TRIES or not refusal.passing:
                    raise
            time.sleep(PAUSE * 2**attempt)
        raise AssertionError("the last try raises")

    async def _download(self, url: str, draft: Draft) -> None:
        from rattler.package_streaming import download_to_writer

        task = asyncio.ensure_future(download_to_writer(self._client, url, draft))
        seen, since = 0, time.monotonic()
        while not task.done():
            await asyncio.wait({task}, timeout=self._stall / 8)
            if draft.count > seen:
                seen, since = draft.count, time.monotonic()
            elif not task.done() and time.monotonic() - since > self._stall:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise Refusal(f"sent nothing for {self._stall:.0f} s", dead=True)  # not tried again: it was time enough
        error = task.exception()
        if error is not None and not (draft.count and isinstance(error, EOFError)):
            raise _refusal(url, draft, str(error)) from None


def _copy(path: Path, draft: Draft) -> None:
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                draft.write(block)
    except EOFError:
        pass
    except FileNotFoundError:
        raise Refusal("has no such file") from None
    except OSError as error:
        raise Refusal(f"cannot be read: {error.strerror}") from None


def _refusal(url: str, draft: Draft, said: str) -> Refusal:
    """What rattler's words mean for the next try."""
    if status := _STATUS.search(said):
        code, phrase, where = int(status[1]), status[2], addresses.host(status[3])
        led = "" if where == addresses.host(url) else f" (at {where}, where it leads to)"
        return Refusal(f"answers {code} {phrase}".rstrip() + led, passing=code >= 500 or code in _PASSING)
    if "following redirect" in said:
        return Refusal("leads in a circle")
    if draft.count:
        return Refusal(f"broke off after {draft.count} bytes", passing=True)
    if "sending request" in said:
        reason = why(url)
        return Refusal(f"does not answer: {reason}", passing=_NO_NAME not in reason, dead=True)
    return Refusal(f"cannot be used: {addresses.scrubbed(said)[:200]}", passing="body" in said)


def _none_of(said: Mapping[str, str], tail: str) -> NetworkError:
    reasons = [f"{name_of(place)} {reason}" for place, reason in said.items()]
    if len(reasons) == 1:
        return NetworkError(f"{reasons[0]} ({tail})", REMEDY)
    return NetworkError("\n  ".join([f"no place gives {tail}:", *reasons]), REMEDY)


class _Followed(urllib.request.HTTPRedirectHandler):
    """Remembers where redirects lead."""

    def __init__(self) -> None:
        self.last = ""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        self.last = arguments[-1]
        return super().redirect_request(*arguments)


def why(url: str) -> str:
    """Why no connection can be made, in a few words: rattler itself says only that it could not send its request.

    Asks once more, without credentials, for 3 seconds at most.
    """
    followed = _Followed()
    proxies = urllib.request.getproxies()
    parts = urlsplit(url)
    proxy = "" if urllib.request.proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme, "")
    through = f" (through the proxy {addresses.host(proxy)})" if proxy else ""
    bare, _ = addresses.split(url)
    try:
        urllib.request.build_opener(followed).open(urllib.request.Request(bare, method="HEAD"), timeout=3).close()
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        led = f" (at {addresses.host(followed.last)}, where it leads to)" if followed.last else ""
        return addresses.scrubbed(_words(error.reason)) + led + through
    except (OSError, ValueError) as error:
        return addresses.scrubbed(_words(error)) + through
    return f"the connection breaks off{through}"


def _words(reason: object) -> str:
    import socket
    import ssl

    if isinstance(reason, socket.gaierror):
        return f"{_NO_NAME if reason.errno == socket.EAI_NONAME else 'its name is not found'} (DNS: {reason.strerror})"
    if isinstance(reason, ssl.SSLError):
        return f"no secure connection (TLS: {getattr(reason, 'verify_message', '') or reason.reason or reason})"
    if isinstance(reason, TimeoutError):
        return "no answer within 3 s"
    return (isinstance(reason, OSError) and reason.strerror) or str(reason)
