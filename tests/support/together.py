"""Processes that are launched together, and what they find: a data set, a model and corruptions, all to be fetched."""

import hashlib
import json
import multiprocessing
import os
import pickle
import socket
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import ClassVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

SECONDS = 900
TINY, CIFAR, CORRUPTED = "tiny-imagenet-200.zip", "cifar-10-python.tar.gz", "CIFAR-10-C.tar"
# Forks of one process that has imported everything start at once
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(
    ["tests.support.together", "freqrob.cli", "freqrob.training", "freqrob.diagnostics",
     "freqrob.evaluation.corruptions", "freqrob.models.sources", "matplotlib.figure", "torchvision.datasets.utils"]
)  # fmt: skip


def small(num_classes):
    parts = nn.Conv2d(3, 4, 3, stride=4), nn.Tanh(), nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(256, num_classes)
    return nn.Sequential(*parts)


class Together:
    """Processes of one group, each with ``target(folder, *arguments)`` in a folder that they share.

    They are launched with the environment that torchrun gives its workers, who meet at a store of its own, or else as
    a person does it, and then the first of them makes the store. All of them wait for each other before ``target``.
    """

    def __init__(self, folder, world_size, target, *arguments, by_hand=False, **environment):
        self.folder, self.outputs = folder, [folder / f"output-{rank}" for rank in range(world_size)]
        self._store = None if by_hand else dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._gate, self.processes = forkserver.Barrier(world_size), []
        for rank in range(world_size):
            own = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self._store.port if self._store else free_port(),
                "TORCHELASTIC_USE_AGENT_STORE": not by_hand, "OMP_NUM_THREADS": 1, "no_proxy": "*", **environment,
            }  # fmt: skip
            if rank:
                own["MASTER_PORT"] = self.port
            self.port = own["MASTER_PORT"]
            given = (target, arguments, folder, {name: str(value) for name, value in own.items()}, self._gate)
            self.processes.append(forkserver.Process(target=_run, args=given, daemon=True))
        for process in self.processes:
            process.start()

    def join(self, seconds=SECONDS):
        """Wait for their ends, and give the exit codes; None for one that had to be killed."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def said(self):
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in self.outputs if path.exists())


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _run(target, arguments, folder, environment, gate):
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open(f"output-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    gate.wait(SECONDS)
    target(folder, *arguments)


def run_freqrob(folder, *arguments):
    """The command line, where the data sets are those of ``sources``; it ends the process."""
    from freqrob.cli import app

    use_sources(folder)
    app([str(argument) for argument in arguments])


def use_sources(folder):
    """Take data sets from the server of ``sources``, know the architecture ``small``, find modules in the folder."""
    from torchvision.datasets import CIFAR10

    from freqrob.data import corruption_arrays, imagenet
    from freqrob.data.archives import Archive
    from freqrob.models import registry

    registry._ARCHITECTURES["small"] = small
    sys.path.insert(0, str(folder))
    known = json.loads((folder / "sources.json").read_text())
    imagenet.TINY_IMAGENET = Archive("tiny-imagenet-200", *known[TINY])
    corruption_arrays.PUBLISHED["cifar10"] = Archive("CIFAR-10-C", *known[CORRUPTED])
    CIFAR10.url, CIFAR10.tgz_md5 = known[CIFAR]
    CIFAR10.train_list, CIFAR10.test_list = [known["train"]], [known["test"]]
    CIFAR10.meta = {**CIFAR10.meta, "md5": known["batches.meta"][1]}


class Counting(SimpleHTTPRequestHandler):
    """Serves the files of a folder; ``fetched`` are their paths, as often as they were."""

    fetched: ClassVar = []

    def do_GET(self):
        self.fetched.append(self.path)
        with suppress(ConnectionError):  # torchvision asks once for redirections alone
            super().do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def sources(folder):
    """A server of this machine with archives of small data sets, and weights; gives the paths that it was asked for.

    ``sources.json`` in the folder says where they are, for ``use_sources``, and cards lie beside it.
    """
    folder.mkdir()
    handler = type("Handler", (Counting,), {"fetched": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        archives, known = [_make_tiny_imagenet(folder), _make_corruptions(folder)], {}
        archives.append(_make_cifar(folder, known))
        known |= {path.name: (f"{address}/{path.name}", _md5(path.read_bytes())) for path in archives}
        (folder / "sources.json").write_text(json.dumps(known))
        _make_models(folder, address)
        yield handler.fetched
        server.shutdown()


def _make_tiny_imagenet(folder):
    random, wnids = np.random.default_rng(0), [f"n{number:08}" for number in range(200)]
    with zipfile.ZipFile(folder / TINY, "w") as zipped:

        def add(name):
            image = BytesIO()
            Image.new("RGB", (64, 64), tuple(random.integers(256, size=3).tolist())).save(image, "PNG")
            zipped.writestr(f"tiny-imagenet-200/{name}", image.getvalue())

        for label, wnid in enumerate(wnids):
            add(f"train/{wnid}/images/{wnid}_0.JPEG")
            add(f"val/images/val_{label}.JPEG")
        lines = (f"val_{label}.JPEG\t{wnid}\t0\t0\t64\t64\n" for label, wnid in enumerate(wnids))
        zipped.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(lines))
        zipped.writestr("tiny-imagenet-200/wnids.txt", "\n".join(wnids))
    return folder / TINY


def _make_corruptions(folder):
    fog = np.random.default_rng(0).integers(256, size=(50, 32, 32, 3), dtype=np.uint8)
    contents = {}
    for name, array in {"labels": np.tile(np.arange(10), 5), "fog": fog}.items():
        content = BytesIO()
        np.save(content, array)
        contents[f"CIFAR-10-C/{name}.npy"] = content.getvalue()
    return _make_tar(folder / CORRUPTED, contents)


def _make_cifar(folder, known):
    """Also tells the checksums of the files in the archive."""
    images = np.random.default_rng(0).integers(256, size=(20, 3072), dtype=np.uint8)
    batch = {"data": images, "labels": [*range(10)] * 2}
    files = {"train": batch, "test": batch, "batches.meta": {"label_names": [*"abcdefghij"]}}
    contents = {name: pickle.dumps(content) for name, content in files.items()}
    known.update({name: (name, _md5(content)) for name, content in contents.items()})
    contents = {f"cifar-10-batches-py/{name}": content for name, content in contents.items()}
    return _make_tar(folder / CIFAR, contents)


def _make_tar(path, contents):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    return path


def _md5(content):
    return hashlib.md5(content).hexdigest()


def _make_models(folder, address):
    from freqrob.models.cards import Card
    from freqrob.models.checkpoints import save

    torch.manual_seed(0)
    for dataset, classes in (("tiny_imagenet", 200), ("cifar10", 10)):
        url = f"{address}/{dataset}.safetensors"
        card = Card("standard_small", "small", dataset, num_classes=classes, url=url)
        save(folder / f"{dataset}.safetensors", small(classes).state_dict(), card)


def fresh_folder(folder, sources):
    """A folder for one start, with the cards of models whose weights are elsewhere, and nothing else."""
    for dataset in ("tiny_imagenet", "cifar10"):
        models = folder / "models" / dataset / "Linf"
        models.mkdir(parents=True)
        (models / "standard_small.json").write_bytes((sources / f"{dataset}.json").read_bytes())
    (folder / "sources.json").write_bytes((sources / "sources.json").read_bytes())
    return folder
