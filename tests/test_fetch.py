"""The one door for downloads: order, checks, resuming, and what it prints."""
import functools
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest
from helpers import load_file

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def digest(path):
    """Return the sha256 of a file (pytest would take minutes to diff its bytes)."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def fetch(monkeypatch):
    """A fresh fetch module, no mirror set."""
    monkeypatch.delenv("LLM_DATA_MIRROR", raising=False)
    return load_file("tools/fetch.py")


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; answers Range; can break off and counts what was asked."""

    asked: list = []
    break_at = None

    def log_message(self, *words):
        pass

    def do_GET(self):
        path = Path(self.directory) / self.path.lstrip("/")
        type(self).asked.append((self.path, self.headers.get("Range")))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = type(self).break_at or len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(tmp_path):
    """(address, folder, handler class) of a local server."""
    folder = tmp_path / "served"
    folder.mkdir()
    kind = type("Handler", (Server,), {"asked": [], "break_at": None})
    http_server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http_server.server_port}", folder, kind
    http_server.shutdown()
    http_server.server_close()


def test_a_local_file_needs_no_address(fetch, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    source = fetch.Source("http://127.0.0.1:9/a.bin", sha256=SHA256)
    assert fetch.fetch("a.bin", source, tmp_path) == tmp_path / "a.bin"
    assert capsys.readouterr().out == "a.bin: found here\n"


def test_the_mirror_comes_before_the_address(fetch, tmp_path, capsys, monkeypatch):
    mirror = tmp_path / "mirror" / "example.org" / "data"
    mirror.mkdir(parents=True)
    (mirror / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("LLM_DATA_MIRROR", str(tmp_path / "mirror"))
    source = fetch.Source("https://example.org/data/a.bin", sha256=SHA256)
    path = fetch.fetch("a.bin", source, tmp_path / "here")
    assert digest(path) == SHA256
    printed = capsys.readouterr().out
    assert "mirror" in printed and str(tmp_path) not in printed   # no machine path


def test_a_mirror_may_be_an_address(fetch, server, tmp_path, monkeypatch):
    address, folder, _ = server
    (folder / "example.org").mkdir()
    (folder / "example.org" / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("LLM_DATA_MIRROR", address + "/")
    source = fetch.Source("https://example.org/a.bin", sha256=SHA256)
    assert digest(fetch.fetch("a.bin", source, tmp_path)) == SHA256


def test_the_backup_address_is_tried_and_named(fetch, server, tmp_path, capsys):
    address, folder, _ = server
    (folder / "b.bin").write_bytes(CONTENT)
    source = fetch.Source(f"{address}/none.bin", f"{address}/b.bin", SHA256)
    assert digest(fetch.fetch("a.bin", source, tmp_path)) == SHA256
    assert capsys.readouterr().out == f"a.bin: from {address}/b.bin\n"


def test_a_file_with_another_checksum_is_not_kept(fetch, server, tmp_path):
    address, folder, _ = server
    (folder / "a.bin").write_bytes(b"an error page")
    source = fetch.Source(f"{address}/a.bin", sha256=SHA256)
    with pytest.raises(fetch.FetchError, match="not the expected one"):
        fetch.fetch("a.bin", source, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_broken_download_goes_on_where_it_stopped(fetch, server, tmp_path):
    address, folder, kind = server
    (folder / "a.bin").write_bytes(CONTENT)
    source = fetch.Source(f"{address}/a.bin", sha256=SHA256)
    kind.break_at = 100_000
    with pytest.raises(fetch.FetchError, match="a.bin could not be had"):
        fetch.fetch("a.bin", source, tmp_path / "here")
    kind.break_at = None
    fetch = load_file("tools/fetch.py")        # a later process
    assert digest(fetch.fetch("a.bin", source, tmp_path / "here")) == SHA256
    begun = [int(r.removeprefix("bytes=").rstrip("-")) for _, r in kind.asked if r]
    assert begun and 0 < begun[-1] <= 100_000


def test_a_damaged_part_does_not_poison_later_tries(fetch, server, tmp_path):
    address, folder, _ = server
    (folder / "a.bin").write_bytes(CONTENT)
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    source = fetch.Source(f"{address}/a.bin", sha256=SHA256)
    with pytest.raises(fetch.FetchError):
        fetch.fetch("a.bin", source, tmp_path)
    assert digest(fetch.fetch("a.bin", source, tmp_path)) == SHA256


def test_the_first_failed_connection_means_offline(fetch, tmp_path, monkeypatch):
    import requests

    asked = []

    def refuse(address, **words):
        asked.append(address)
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(requests, "get", refuse)
    source = fetch.Source("https://example.org/a", "https://example.com/a")
    for _ in range(3):
        with pytest.raises(fetch.FetchError, match="could not be had"):
            fetch.fetch("a", source, tmp_path)
    assert asked == ["https://example.org/a"]


def test_the_bundled_default_is_named_and_never_mistaken_for_the_original(
        fetch, tmp_path, capsys):
    path = fetch.fetch("the-verdict.txt", folder=tmp_path)
    if path.name == "the-verdict.txt":
        pytest.skip("the original lies in the course's folder")
    assert path.name == "the-sign-painter.txt"
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "takes its place" in printed
    assert "book" in printed and str(path.parent) not in printed


def test_a_readers_own_file_of_that_name_is_not_overwritten(fetch, server, tmp_path):
    address, folder, _ = server
    (folder / "a.txt").write_bytes(CONTENT)
    (tmp_path / "a.txt").write_text("mine", encoding="utf-8")
    path = fetch.fetch("a.txt", fetch.Source(f"{address}/a.txt", sha256=SHA256), tmp_path)
    assert digest(path) == SHA256 and path.name != "a.txt"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "mine"


def test_the_checksum_of_a_zip_is_of_the_file_inside(fetch, tmp_path):
    source = fetch.Source("http://127.0.0.1:9/a.zip", sha256=SHA256, member="in/a.bin")
    for level in (0, 9):           # other archives, the same content
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compresslevel=level) as archive:
            archive.writestr("in/a.bin", CONTENT)
        assert fetch.fetch("a.zip", source, tmp_path).name == "a.zip"
    (tmp_path / "a.zip").write_bytes(b"no zip at all")
    with pytest.raises(fetch.FetchError):
        fetch.fetch("a.zip", source, tmp_path)


def test_the_message_says_what_to_do(fetch, tmp_path):
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch("a", fetch.Source("https://example.org/d/a"), tmp_path)
    message = str(error.value)
    assert "LLM_DATA_MIRROR" in message and "example.org/d/a" in message
    assert "\n" not in message
