"""Fixtures of the tests that read files."""

import signal

import pytest


@pytest.fixture
def never_waits():
    """A reader that waits for a pipe fails rather than hangs."""

    def fail(*_):
        raise AssertionError("waited for a file")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
