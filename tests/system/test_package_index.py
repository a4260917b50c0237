"""Which index the user has chosen: each setting is found, in one order, and each tool is told what it does not know."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from verlock.system import package_index, uv


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home without settings."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_", "XDG_")) or name in (
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "tools"))
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nobody_chose_one():
    assert package_index.chosen().url == "" and str(package_index.chosen()) == "the default index"
    assert package_index.for_uv() == package_index.for_pip() == {}
    assert package_index.upstream().startswith("https://") and package_index.upstream().endswith("/simple")


def test_the_first_setting_counts(home, monkeypatch):
    write(home / ".config/pip/pip.conf", "[global]\nindex-url = https://pip.conf/simple/\n")
    assert package_index.upstream() == "https://pip.conf/simple"
    write(home / "etc/uv/uv.toml", 'index-url = "https://system/simple"\n')
    assert package_index.upstream() == "https://system/simple"
    write(home / ".config/uv/uv.toml", '[[index]]\nurl = "https://more/simple"\n')
    assert package_index.upstream() == "https://system/simple"
    write(home / ".config/uv/uv.toml", '[[index]]\nurl = "https://user/simple"\ndefault = true\n')
    assert package_index.upstream() == "https://user/simple"
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, f"https://{name.lower()}.example/simple")
        assert package_index.chosen().by == name
        assert package_index.upstream() == f"https://{name.lower()}.example/simple"


@pytest.mark.parametrize("text", ["not toml", "index = 3", "pip = {}", '[[index]]\nname = "x"\ndefault = true\n'])
def test_a_broken_file_of_uv_is_uvs_to_complain_of(home, text):
    write(home / ".config/uv/uv.toml", text)
    assert package_index.chosen().url == ""


@pytest.mark.parametrize(
    ("setting", "address"),
    [
        ("corp=https://corp.example/simple/", "https://corp.example/simple"),
        ("https://corp.example/simple?token=a=b", "https://corp.example/simple?token=a=b"),
        ("corp=https://corp.example/simple?token=a=b", "https://corp.example/simple?token=a=b"),
        ("https://user:secret=@corp.example/simple", "https://user:secret=@corp.example/simple"),
        ("/a/folder=of/wheels", "/a/folder=of/wheels"),
    ],
)
def test_the_address_in_a_setting(setting, address):
    assert package_index.address(setting) == address


def test_each_tool_is_told_what_only_the_other_knows(home, monkeypatch):
    write(home / ".config/pip/pip.conf", "[global]\nindex-url = https://user:secret@pip.conf/simple/\n")
    assert package_index.for_uv() == {"UV_DEFAULT_INDEX": "https://user:secret@pip.conf/simple"}
    assert "secret" not in str(package_index.chosen()) and "secret" not in repr(package_index.chosen())
    monkeypatch.setenv("UV_DEFAULT_INDEX", "corp=https://uv/simple")
    assert package_index.for_uv() == {} and package_index.for_pip() == {"PIP_INDEX_URL": "https://uv/simple"}
    monkeypatch.setenv("PIP_CERT", "/a.pem")
    assert package_index.for_uv() == {"SSL_CERT_FILE": "/a.pem"}


def test_uv_really_asks_pips_index(home, monkeypatch):
    """And its complaint names neither name nor password."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:s3cret-word@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(home / "cache"))
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9 does not answer") as caught:
        uv.run(["pip", "install", "--dry-run", "--target", str(home / "x"), "six"])
    assert "s3cret" not in str(caught.value)


def test_pip_reads_the_same_files(home):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True, check=True
    ).stdout
    for path in package_index._pip_files():
        if path.parent != home / "tools":
            assert f"{path}, exists: " in done
