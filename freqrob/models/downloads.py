"""Downloads: weights from the location on a card, used only if their sha256 matches the card."""

import os
import shutil
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from rich.console import Console
from rich.progress import wrap_file

from freqrob.models.cards import Card, CheckpointError
from freqrob.models.checkpoints import card_path, check_sha256
from freqrob.runtime.files import check_folder, replacing, write_text
from freqrob.runtime.reading import open_file

_TIMEOUT_SECONDS = 30


def download_url(card: Card) -> str:
    """Location of a card's weights: a URL, or a file in a Hugging Face repository; "" if the card names neither.

    The environment's ``HF_ENDPOINT`` replaces ``https://huggingface.co``, as in Hugging Face's own tools.
    """
    if card.url or not card.hf_repo:
        return card.url
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{card.hf_repo}/resolve/{card.hf_revision}/{card.hf_file or card.name + '.safetensors'}"


def download(card: Card, path: Path) -> None:
    """Download the card's weights (http, https or file URL) to ``path``, and write the card.

    Prints source and target on stderr. Raises CheckpointError when the card has no sha256 or the
    download does not match it, OSError when downloading or writing fails; no partial file is left.
    """
    url = download_url(card)
    if not card.sha256:
        raise CheckpointError(f"{card.name}: its card gives {url} but no sha256 to check the download against")
    print(f"Downloading {card.name} from {url} to {path}", file=sys.stderr)
    try:
        with replacing(path) as weights:
            _transfer(url, weights)
            check_sha256(weights, card.sha256, shown_as=url)
            write_text(card_path(path), card.to_json())  # first: weights without a card are loaded as their name says
    except CheckpointError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        check_folder(path.parent, "model_dir")
        raise OSError(f"could not download {url} to {path}: {error}; nothing was kept") from error


def _transfer(url: str, path: Path) -> None:
    """Copy what ``url`` serves to ``path``, with a progress bar on a terminal."""
    parts, console = urlsplit(url), Console(stderr=True)
    if parts.scheme not in ("http", "https", "file"):
        raise ValueError(f"expected an http, https or file URL, got {parts.scheme or 'none'}")
    if parts.scheme == "file":  # urlopen would wait for a pipe
        open_file(url2pathname(parts.path)).close()
    request = Request(url, headers={"User-Agent": "freqrob"})
    with urlopen(request, timeout=_TIMEOUT_SECONDS) as source, path.open("wb") as target:
        expected = int(source.headers.get("Content-Length") or 0)
        with wrap_file(source, expected, description="", console=console, disable=not console.is_terminal) as shown:
            shutil.copyfileobj(shown, target)
        if target.tell() < expected:
            raise OSError(f"the connection ended after {target.tell()} of {expected} bytes")
