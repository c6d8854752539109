"""The line between the server and a worker process: whole messages, or a clear end."""

import os
import signal
import struct
import threading

import pytest

from fedbonsai.engines.link import Link


@pytest.fixture
def ends():
    pair = Link.pair()
    yield pair
    for one in pair:
        one.close()


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
def test_messages_come_whole_and_in_order(ends, size):
    ours, theirs = ends
    sent = [os.urandom(size), b"", os.urandom(size), b"end"]

    def send():
        for one in sent:
            theirs.send(one)

    sender = threading.Thread(target=send)
    sender.start()
    assert [ours.receive() for _ in sent] == sent
    sender.join()


def test_a_signal_in_the_middle_of_a_message_does_no_harm(ends):
    ours, theirs = ends
    here, data = threading.get_ident(), os.urandom(3_000_000)
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(1))

    def send():
        theirs._end.sendall(struct.pack("<q", len(data)))
        for at in range(0, len(data), 100_000):
            theirs._end.sendall(data[at : at + 100_000])
            signal.pthread_kill(here, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert ours.receive() == data
    finally:
        ours.close()  # or a sender that nobody listens to would wait for ever
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert came


@pytest.mark.parametrize(
    "left", [b"", struct.pack("<q", 10)[:3], struct.pack("<q", 10), struct.pack("<q", 10) + b"half"]
)
def test_an_end_that_closes_ends_the_wait(ends, left):
    ours, theirs = ends
    theirs._end.sendall(left)
    theirs.close()
    with pytest.raises(EOFError, match="the other end of the line is closed"):
        ours.receive()


def test_nothing_is_sent_to_an_end_that_is_closed(ends):
    ours, theirs = ends
    theirs.close()
    with pytest.raises(OSError):  # noqa: PT011  the system's words
        ours.send(b"hello")
