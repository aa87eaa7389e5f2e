"""Finding CLIP's weights: a file of the user, the cache, a download from a server on this machine."""

import email.message
import hashlib
import io
import logging
import threading
import urllib.request
import urllib.response
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.clip import clip
from model.clip.clip import PRETRAINED, Weights, find_weights
from utils.errors import ReIDError

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, or fails in one of the ways in which a download goes wrong."""

    def do_GET(self):
        kind = self.path.rpartition("/")[2].removesuffix(".pt")
        self.server.asked.append(kind)
        if kind == "missing":
            return self.send_error(404)
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            return self.end_headers()
        body = CONTENT[:-1] + b"!" if kind == "tampered" else CONTENT
        self.send_response(200)
        if kind != "unannounced":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "interrupted" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; plain HTTP is switched on for it."""
    monkeypatch.setattr(clip, "PROTOCOLS", (urllib.request.HTTPHandler, urllib.request.HTTPSHandler))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.root = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def publish(monkeypatch, url, sha256=SHA256):
    monkeypatch.setitem(PRETRAINED, "ViT-B-16", Weights(url, sha256))


def test_table():
    assert set(PRETRAINED) == {"RN50", "RN101", "RN50x4", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"}
    for weights in PRETRAINED.values():
        assert weights.url.startswith("https://")
        assert weights.url.split("/")[-2] == weights.sha256 and len(weights.sha256) == 64


def test_own_file(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"x")
    assert find_weights("ViT-B-16", tmp_path / "w.pt") == tmp_path / "w.pt"
    for wrong in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ReIDError, match=r"MODEL.PRETRAIN_PATH = .*(no such file|is a folder).*docs/methods.md"):
            find_weights("ViT-B-16", str(wrong))


def test_unknown_name(tmp_path):
    with pytest.raises(ReIDError, match=r"MODEL.NAME = 'ViT-Tiny-16'.*RN50, .*MODEL.PRETRAIN_PATH"):
        find_weights("ViT-Tiny-16", cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["right", "unannounced"])
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B/16"])
def test_download_then_cache(tmp_path, monkeypatch, server, kind, name):
    publish(monkeypatch, f"{server.root}/{kind}.pt")
    for _ in range(2):
        path = find_weights(name, cache_dir=tmp_path / "new" / "cache")
        assert path == tmp_path / "new" / "cache" / f"{kind}.pt"
        assert path.read_bytes() == CONTENT
    assert server.asked == [kind]
    assert [p.name for p in path.parent.iterdir()] == [f"{kind}.pt"]


def test_cache_folder_from_the_environment_and_by_default(tmp_path, monkeypatch):
    for folder in (tmp_path / "cache", tmp_path / ".cache" / "clip"):
        folder.mkdir(parents=True)
        (folder / "w.pt").write_bytes(CONTENT)
    publish(monkeypatch, "https://127.0.0.1:1/w.pt")
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    assert find_weights("ViT-B-16") == tmp_path / "cache" / "w.pt"
    monkeypatch.delenv("CLIP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_weights("ViT-B-16") == tmp_path / ".cache" / "clip" / "w.pt"


def test_damaged_cache_is_replaced(tmp_path, monkeypatch, server, caplog):
    (tmp_path / "right.pt").write_bytes(b"half a file")
    publish(monkeypatch, f"{server.root}/right.pt")
    with caplog.at_level(logging.WARNING):
        assert find_weights("ViT-B-16", cache_dir=tmp_path).read_bytes() == CONTENT
    assert "right.pt is not the published file" in caplog.text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("tampered", "not the published one"),
        ("interrupted", f"after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("missing", "Not Found"),
    ],
)
def test_bad_downloads_leave_nothing(tmp_path, monkeypatch, server, kind, reason):
    publish(monkeypatch, f"{server.root}/{kind}.pt")
    with pytest.raises(ReIDError, match=reason):
        find_weights("ViT-B-16", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["right", "unannounced"])
def test_download_has_a_limit(tmp_path, monkeypatch, server, kind):
    monkeypatch.setattr(clip, "SIZE_LIMIT", len(CONTENT) - 1)
    publish(monkeypatch, f"{server.root}/{kind}.pt")
    with pytest.raises(ReIDError, match=f"more than {len(CONTENT) - 1} bytes"):
        find_weights("ViT-B-16", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_https(tmp_path, monkeypatch, server):
    monkeypatch.setattr(clip, "PROTOCOLS", (urllib.request.HTTPSHandler,))
    publish(monkeypatch, f"{server.root}/right.pt")
    with pytest.raises(ReIDError, match="unknown url type: http"):
        find_weights("ViT-B-16", cache_dir=tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/w.pt", "file:///etc/hostname"])
def test_redirection_to_another_protocol(tmp_path, monkeypatch, server, where):
    server.redirect = where
    publish(monkeypatch, f"{server.root}/moved.pt")
    with pytest.raises(ReIDError, match="could not be downloaded"):
        find_weights("ViT-B-16", cache_dir=tmp_path)


class Redirecting(urllib.request.HTTPSHandler):
    """In place of a server that answers HTTPS with a redirection to plain HTTP."""

    target = ""

    def https_open(self, request):
        headers = email.message.Message()
        headers["Location"] = self.target
        answer = urllib.response.addinfourl(io.BytesIO(), headers, request.full_url, 302)
        answer.msg = "Found"
        return answer


def test_redirection_to_plain_http(tmp_path, monkeypatch, server):
    monkeypatch.setattr(clip, "PROTOCOLS", (Redirecting,))
    monkeypatch.setattr(Redirecting, "target", f"{server.root}/right.pt")
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    publish(monkeypatch, "https://example.org/right.pt")
    with pytest.raises(ReIDError, match="unknown url type: http"):
        find_weights("ViT-B-16", cache_dir=tmp_path)
    assert server.asked == [] and list(tmp_path.iterdir()) == []


def test_redirection_within_the_protocol(tmp_path, monkeypatch, server):
    server.redirect = f"{server.root}/right.pt"
    publish(monkeypatch, f"{server.root}/moved.pt")
    assert find_weights("ViT-B-16", cache_dir=tmp_path).read_bytes() == CONTENT


def test_the_offline_message_has_all_that_is_needed(tmp_path, monkeypatch):
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    publish(monkeypatch, "https://127.0.0.1:1/ViT-B-16.pt")
    with pytest.raises(ReIDError) as raised:
        find_weights("ViT-B-16", cache_dir=tmp_path)
    for part in (
        "https://127.0.0.1:1/ViT-B-16.pt",
        SHA256,
        str(tmp_path / "ViT-B-16.pt"),
        "MODEL.PRETRAIN_PATH",
    ):
        assert part in str(raised.value)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    publish(monkeypatch, "https://127.0.0.1:1/w.pt")
    with pytest.raises(ReIDError, match=r"could not be downloaded.*file"):
        find_weights("ViT-B-16", cache_dir=tmp_path / "file" / "cache")
