"""Channels and mirrors as they are: logins, gaps, faults, no network. Small packages, a real rattler, servers made here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import ThreadingHTTPServer

import channel
import pytest

from verlock.conda import client
from verlock.errors import IntegrityError, NetworkError
from verlock.system import loopback

NAMES = ("one", "two", "three")
FILES = {name: f"linux-64/{name}-1.0-0.conda" for name in NAMES}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("channel")
    (folder / "linux-64").mkdir()
    for name in NAMES:
        channel.stub(folder, name, "1.0")
    return folder


class Site:
    """A server with the channel's files. `faults`: path -> what to do instead; `login`: the header it wants."""

    def __init__(self, folder, scheme="http"):
        self.asked: list[str] = []
        self.faults: dict[str, object] = {}
        self.login = ""
        site = self

        class Handler(loopback.Handler):
            def do_GET(self):
                path = self.path.split("//", 1)[-1].partition("/")[2] if "://" in self.path else self.path[1:]
                site.asked.append(path)
                if site.login and self.headers.get("Authorization") != site.login:
                    return self.answer(401)
                if fault := site.faults.get(path) or site.faults.get("*"):
                    return fault(self)
                file = folder / path
                return self.answer(200, file.read_bytes()) if file.is_file() else self.answer(404)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"{scheme}://{self.host}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site(made):
    with contextlib.ExitStack() as stack:

        def start(folder=made):
            one = Site(folder)
            stack.callback(one.server.server_close)
            stack.callback(one.server.shutdown)
            return one

        yield start


@pytest.fixture
def lock(made, tmp_path):
    """A conda-lock.yml of the three packages, of a channel at this URL."""

    def write(url):
        listed = []
        for name in NAMES:
            data = (made / FILES[name]).read_bytes()
            hashes = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
            entry = {"name": name, "version": "1.0", "manager": "conda", "platform": "linux-64", "dependencies": {}}
            entry |= {"url": f"{url}/{FILES[name]}", "hash": hashes, "category": "main", "optional": False}
            listed.append(entry)
        head = {"content_hash": {"linux-64": "0" * 64}, "channels": [{"url": url, "used_env_vars": []}]}
        head |= {"platforms": ["linux-64"], "sources": ["environment.yml"]}
        path = tmp_path / "conda-lock.yml"
        path.write_text(json.dumps({"version": 1, "metadata": head, "package": listed}))
        return path

    return write


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    for name in ("RATTLER_AUTH_FILE", "NETRC", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def run(lock, *mirrors, prefix="prefix"):
        client.install(lock, tmp_path / prefix, client.cache_dir(), mirrors=[str(mirror) for mirror in mirrors])
        found = sorted(path.stem for path in (tmp_path / prefix / "share").iterdir())
        assert found == sorted(NAMES)
        assert not (tmp_path / "home").exists(), "nothing is written into the home folder"

    return run


def broken_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"x" * 1000)
    handler.close_connection = True


def moved(location):
    return lambda handler: handler.answer(302, Location=location)


def hung_up(handler):
    handler.close_connection = True


def nobody():
    """The address of a port where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


BASIC = "Basic " + base64.b64encode(b"anna:s3cret!word").decode()


@pytest.mark.parametrize(
    ("login", "entry"),
    [(BASIC, {"BasicHTTP": {"username": "anna", "password": "s3cret!word"}}),
     ("Bearer t0k3n-of-anna", {"BearerToken": "t0k3n-of-anna"})],
)  # fmt: skip
def test_a_login_comes_from_rattlers_own_file(site, lock, install, tmp_path, monkeypatch, login, entry):
    private = site()
    private.login = login
    with pytest.raises(NetworkError, match=rf"{private.host} answers 401"):
        install(lock(private.url))
    assert not client.reachable(lock(private.url))
    (tmp_path / "auth.json").write_text(json.dumps({"127.0.0.1": entry}))
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    assert client.reachable(lock(private.url))
    install(lock(private.url))


def test_a_login_comes_from_netrc(site, lock, install, tmp_path, monkeypatch):
    private = site()
    private.login = BASIC
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password s3cret!word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    install(lock(private.url))


def test_a_login_in_a_mirror_s_url_works_and_is_never_shown(site, lock, install, monkeypatch, capfd):
    private = site()
    private.login = BASIC
    mirror = private.url.replace("://", "://anna:s3cret%21word@")
    dead = lock("http://conda.invalid/channel")
    install(dead, mirror)
    private.faults["*"] = lambda handler: handler.answer(403)
    for wrong in (mirror, mirror.replace("s3cret", "wr0ng-one")):
        with pytest.raises(NetworkError) as caught:
            client.ask(dead, [wrong])
        said = str(caught.value) + "".join(capfd.readouterr())
        assert private.host in said
        assert not any(secret in said for secret in ("s3cret", "wr0ng-one", "anna"))


def test_rattler_s_own_configuration_holds(site, lock, install, tmp_path, monkeypatch):
    """Its mirrors stand in for the channel, and here too the second is asked for what the first lacks."""
    first, second = site(), site()
    first.faults[FILES["two"]] = lambda handler: handler.answer(404)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/rattler").mkdir(parents=True)
    (tmp_path / "config/rattler/config.toml").write_text(
        f'[mirrors]\n"http://conda.invalid/channel" = ["{first.url}", "{second.url}"]\n'
    )
    install(lock("http://conda.invalid/channel"))
    assert second.asked == [FILES["two"]]


def test_the_way_to_a_channel_leads_through_the_proxy(site, lock, install, monkeypatch):
    """The fake proxy is itself the channel: it answers whatever host is asked for."""
    proxy = site()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    install(lock("http://conda.invalid"))
    monkeypatch.setenv("http_proxy", f"http://anna:s3cret-word@{nobody()}")
    with pytest.raises(NetworkError, match=r"conda\.invalid does not answer: Connection refused") as caught:
        client.ask(lock("http://conda.invalid"))
    assert "(through the proxy 127.0.0.1:" in caught.value.problem
    assert "s3cret" not in str(caught.value)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make certificates with")
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_company_s_own_certificate_is_believed_where_the_user_says_so(
    site, lock, install, tmp_path, monkeypatch, name
):
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=company",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request -subj /CN=mirror",
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out cert.pem -extfile names",
    ):
        (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    secure = site()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    secure.server.socket = context.wrap_socket(secure.server.socket, server_side=True)
    url = secure.url.replace("http", "https")
    for each in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    with pytest.raises(NetworkError, match=r"no secure connection \(TLS: .*certificate"):
        client.ask(lock(url))
    monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    install(lock(url))


def test_what_one_place_lacks_comes_from_the_next(site, lock, install):
    """Two mirrors and a channel with one package each."""
    sites = [site(), site(), site()]
    for one, has in zip(sites, NAMES, strict=True):
        for name in set(NAMES) - {has}:
            one.faults[FILES[name]] = lambda handler: handler.answer(404)
    install(lock(sites[2].url), sites[0].url, sites[1].url)


BROKEN = {
    "500": (lambda handler: handler.answer(500), "answers 500"),
    "403": (lambda handler: handler.answer(403), "answers 403"),
    "login page": (lambda handler: handler.answer(200, b"<html>please log in</html>"), "sha256|is not what the lock names"),
    "broken off": (broken_off, "broke off after"),
    "hung up": (hung_up, "does not answer: "),
    "moved away": (moved("http://elsewhere.invalid/x"), r"\(DNS: .*\) \(at elsewhere.invalid"),
    "moved to a gap": (lambda handler: handler.answer(302, Location="/gone"), "answers 404"),
    "a circle": (lambda handler: handler.answer(302, Location=handler.path), "leads in a circle"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_mirror_is_passed_over_and_a_broken_channel_is_told(site, lock, install, kind, capfd):
    fault, said = BROKEN[kind]
    broken, whole = site(), site()
    broken.faults[FILES["two"]] = fault
    install(lock(whole.url), broken.url)
    told = capfd.readouterr().err
    assert (f"{broken.host} gives other bytes" in told) == (kind == "login page")
    client.cache_dir().rename(client.cache_dir().with_name("used"))
    start = time.monotonic()
    with pytest.raises(IntegrityError if kind == "login page" else NetworkError, match=said) as caught:
        install(lock(broken.url), prefix="other")
    assert time.monotonic() - start < 20
    assert broken.host in caught.value.problem and "two-1.0-0.conda" in caught.value.problem


@pytest.mark.parametrize("fault", [BROKEN[kind][0] for kind in ("500", "broken off", "hung up")])
def test_what_passes_is_tried_again(made, site, lock, install, fault):
    hiccup = site()
    left = [1, 1]

    def at_first(handler):
        if left:
            left.pop()
            return fault(handler)
        return handler.answer(200, (made / FILES["one"]).read_bytes())

    hiccup.faults[FILES["one"]] = at_first
    assert client.reachable(lock(hiccup.url))
    left[:] = [1, 1]
    install(lock(hiccup.url))


def test_what_is_cached_is_asked_for_nowhere(site, lock, install, monkeypatch):
    """And so a base of conda needs no network: neither a name server nor a proxy that lives."""
    there = site()
    install(lock(there.url))
    monkeypatch.setenv("http_proxy", f"http://{nobody()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = lock("http://conda.invalid/channel")
    with pytest.raises(NetworkError):
        client.ask(gone)
    client.ask(gone, cache=client.cache_dir())
    install(gone, prefix="other")
    (file,) = client.cache_dir().glob("two-*/share/two.txt")
    file.unlink()
    file.write_text("spoilt")
    with pytest.raises(NetworkError, match=r"conda\.invalid .*two-1\.0"):
        install(gone, prefix="third")
    with pytest.raises(NetworkError, match=r"two-1\.0"):
        install(gone, prefix="third")


def test_every_place_that_was_asked_is_told_with_its_reason(site, lock, install, tmp_path):
    empty = site(tmp_path)
    refused = nobody()
    secure = site()
    mirrors = [empty.url, f"http://{refused}", secure.url.replace("http", "https"), str(tmp_path)]
    with pytest.raises(NetworkError) as caught:
        client.ask(lock("http://conda.invalid/channel"), mirrors)
    lines = caught.value.problem.splitlines()[1:]
    wanted = [
        f"{empty.host} answers 404",
        f"{refused} does not answer: Connection refused",
        f"{secure.host} does not answer: no secure connection (TLS",
        f"{tmp_path} has no such file",
        "conda.invalid does not answer: ",
    ]
    assert [line.strip().startswith(want) for line, want in zip(lines, wanted, strict=True)] == [True] * 5, lines


def test_a_host_that_says_nothing_is_given_up_after_five_seconds(lock, install):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(NetworkError, match=f"{host} does not answer within 5 s"):
            client.ask(lock(f"http://{host}"))
        assert time.monotonic() - start < 9
