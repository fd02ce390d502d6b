"""Detect that another process of a group has ended for any reason, also while this process computes or waits."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

GRACE = 10  # seconds for a process to end by itself, with its message, after another has ended
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # detects a lost machine within 30 seconds
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Lifeline(threading.Thread):
    """Connections between the first process and each of the others, which the system closes when either ends.

    torchrun ends its processes together. Processes started by srun or by a user would detect a missing one only when
    they next wait for it, perhaps after hours, and with NCCL not even then. Only a token is sent, at the beginning. A
    closed connection sets ``is_cut``; the first process then closes its other connections. Processes that have not
    closed their end after ``GRACE`` seconds end themselves.

    All processes of the initialised group must create one. It is started if the first process can be reached on another
    port than ``MASTER_PORT``.
    """

    def __init__(self) -> None:
        super().__init__(name="freqrob-lifeline", daemon=True)
        rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._closed, self._cut = threading.Event(), threading.Event()
        self._peers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        host = os.environ["MASTER_ADDR"]
        where: list[tuple[int, bytes] | None] = [None]
        if rank == 0:
            with suppress(OSError):
                self._listener = _listen(host, self._world_size)
                where = [(self._listener.getsockname()[1], secrets.token_bytes(16))]
        dist.broadcast_object_list(where, src=0, device=torch.device("cpu"))
        port, self._token = where[0] or (0, b"")
        if rank > 0 and port:
            with suppress(OSError):
                peer = socket.create_connection((host, port), timeout=GRACE)
                peer.sendall(self._token)
                self._peers.append(_kept_alive(peer))
        if self._peers or self._listener:
            self.start()

    def run(self) -> None:
        while not self._closed.is_set():
            for ready in wait([*filter(None, [self._listener]), *self._peers], timeout=1):
                if ready is not self._listener:
                    self._end()
                    return
                self._admit()

    def is_cut(self) -> bool:
        """Whether another process ended before this one called ``close``; waits a few seconds for the notification."""
        return self._cut.wait(GRACE / 2)

    def close(self) -> None:
        """Stop watching; the others treat this as the end of the process."""
        self._closed.set()
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        if self.is_alive():
            self.join()

    def _admit(self) -> None:
        """Accept the connection of a process that sends the token; refuse others."""
        listener = self._listener
        if listener is None:
            return
        with suppress(OSError):
            peer, _ = listener.accept()
            peer.settimeout(1)
            with peer.makefile("rb") as sent:
                if secrets.compare_digest(sent.read(len(self._token)), self._token):
                    self._peers.append(_kept_alive(peer))
        if len(self._peers) == self._world_size - 1:
            listener.close()
            self._listener = None

    def _end(self) -> None:
        if self._closed.is_set():
            return
        self._cut.set()
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        if not self._closed.wait(GRACE):
            print("Another process of the group ended; this one ends too", file=sys.stderr, flush=True)
            os._exit(1)


def _listen(host: str, world_size: int) -> socket.socket:
    """Listen only on this machine if the address is local, else on all interfaces."""
    if host in _LOOPBACK:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family, backlog=world_size)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=world_size)
    return socket.create_server(("", 0), backlog=world_size)


def _kept_alive(peer: socket.socket) -> socket.socket:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peer
