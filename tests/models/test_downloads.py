"""Downloads by the location on a card: what is on a server is loaded, and what is not the card's is refused."""

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from freqrob.models import checkpoints, load_model, loading
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.downloads import download_url
from tests.support.saved_models import CARD, NAME, logits, same, write_model

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@contextmanager
def serving(files: dict[str, bytes], cut: int = 0):
    """A local server of ``files`` by path, which hangs up ``cut`` bytes before the end of each; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in files:
                self.send_error(404, "no such weights")
                return
            content = files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - cut])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def published(tmp_path) -> tuple[bytes, Card]:
    """Weights that are on a server only, and their card."""
    path, card = write_model(tmp_path / "published", seed=9)
    return path.read_bytes(), card


def ship(card: Card, tmp_path: Path) -> None:
    path = loading.checkpoint_path(NAME, tmp_path / "shipped").with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(card.to_json())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_on_disk_is_not_downloaded(tmp_path):
    _, card = write_model(tmp_path)
    checkpoints.card_path(loading.checkpoint_path(NAME, tmp_path)).write_text(replace(card, url="file:///no").to_json())
    assert same(load_model(NAME, tmp_path), logits(0))


def test_download_by_url(tmp_path, published, capsys):
    weights, card = published
    with serving({"/w.safetensors": weights}) as url:
        ship(replace(card, url=f"{url}/w.safetensors"), tmp_path)
        assert same(load_model(NAME, tmp_path / "models"), logits(9))
    target = tmp_path / "models" / "cifar10" / "Linf" / "pgd_at_rn20.safetensors"
    captured = capsys.readouterr()
    assert f"Downloading pgd_at_rn20 from {url}/w.safetensors to {target}" in captured.err
    assert captured.out == ""
    assert left(tmp_path / "models") == ["pgd_at_rn20.json", "pgd_at_rn20.safetensors"]
    assert same(load_model(NAME, tmp_path / "models"), logits(9))  # the server is gone: from disk this time


def test_download_shows_progress_on_a_terminal(tmp_path, published, capsys, monkeypatch):
    weights, card = published
    with serving({"/w.safetensors": weights}) as url:
        ship(replace(card, url=f"{url}/w.safetensors"), tmp_path)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        load_model(NAME, tmp_path / "models")
    assert f"{len(weights) / 1e6:.1f}/{len(weights) / 1e6:.1f} MB" in capsys.readouterr().err


def test_download_from_hugging_face(tmp_path, published, monkeypatch):
    weights, card = published
    files = {"/me/repo/resolve/main/pgd_at_rn20.safetensors": weights, "/me/repo/resolve/v1/a/b.safetensors": weights}
    with serving(files) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        ship(replace(card, hf_repo="me/repo"), tmp_path)
        assert same(load_model(NAME, tmp_path / "one"), logits(9))
        ship(replace(card, hf_repo="me/repo", hf_file="a/b.safetensors", hf_revision="v1"), tmp_path)
        assert same(load_model(NAME, tmp_path / "two"), logits(9))


def test_hugging_face_address(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    card = replace(CARD, hf_repo="me/repo")
    assert download_url(card) == "https://huggingface.co/me/repo/resolve/main/pgd_at_rn20.safetensors"


def test_download_by_file_url_from_a_card_in_model_dir(tmp_path, published):
    _, card = published
    source = loading.checkpoint_path(NAME, tmp_path / "published")
    target = loading.checkpoint_path(NAME, tmp_path / "models").with_suffix(".json")
    target.parent.mkdir(parents=True)
    target.write_text(replace(card, url=source.as_uri()).to_json())
    assert same(load_model(NAME, tmp_path / "models"), logits(9))


def test_download_of_something_else_is_refused(tmp_path, published):
    weights, card = published
    with serving({"/w": weights[:-1] + b"?"}) as url:
        ship(replace(card, url=f"{url}/w"), tmp_path)
        with pytest.raises(CheckpointError, match=f"{url}/w: sha256 is .* the card expects {card.sha256}"):
            load_model(NAME, tmp_path / "models")
    assert left(tmp_path / "models") == []


def test_weights_never_lie_there_without_their_card(tmp_path, published, monkeypatch):
    """Another process that loads them meanwhile would take them for what their name alone says."""
    weights, card = published
    replace_file, alone = os.replace, []

    def replacing(new, path):
        replace_file(new, path)
        there = {found.suffix for found in Path(path).parent.glob("[!.]*")}
        alone.append(there == {".safetensors"})

    monkeypatch.setattr(os, "replace", replacing)
    write_model(tmp_path / "saved", seed=9)
    with serving({"/w": weights}) as url:
        ship(replace(card, url=f"{url}/w"), tmp_path)
        load_model(NAME, tmp_path / "models")
    assert alone == [False] * 4


def test_interrupted_download(tmp_path, published):
    weights, card = published
    with serving({"/w": weights}, cut=1000) as url:
        ship(replace(card, url=f"{url}/w"), tmp_path)
        with pytest.raises(OSError, match=rf"could not download {url}/w .*nothing was kept"):
            load_model(NAME, tmp_path / "models")
    assert left(tmp_path / "models") == []


def test_download_without_server_or_file(tmp_path, published):
    _, card = published
    with serving({}) as url:
        ship(replace(card, url=f"{url}/w"), tmp_path)
        with pytest.raises(OSError, match="could not download .*404"):
            load_model(NAME, tmp_path / "models")
    with pytest.raises(OSError, match="could not download .*refused"):
        load_model(NAME, tmp_path / "models")
    ship(replace(card, url="nonsense"), tmp_path)
    with pytest.raises(OSError, match="could not download nonsense"):
        load_model(NAME, tmp_path / "models")
    assert left(tmp_path / "models") == []


def test_download_needs_a_sha256(tmp_path, published):
    weights, card = published
    with serving({"/w": weights}) as url:
        ship(replace(card, url=f"{url}/w", sha256=""), tmp_path)
        with pytest.raises(CheckpointError, match="no sha256"):
            load_model(NAME, tmp_path / "models")
    assert left(tmp_path / "models") == []


def test_a_name_without_card_is_not_asked_for_anywhere(tmp_path, monkeypatch):
    def no_network(*arguments, **options):
        raise AssertionError("asked the network")

    monkeypatch.setattr("freqrob.models.downloads.urlopen", no_network)
    ship(replace(CARD, sha256="0" * 64), tmp_path)
    for name in (NAME, "mart_rn20"):
        with pytest.raises(FileNotFoundError):
            load_model(name, tmp_path / "models")
