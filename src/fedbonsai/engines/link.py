"""A line between two processes of one machine that carries messages of bytes."""

import socket
import struct

_LENGTH = struct.Struct("<q")

_SHORT = 1 << 16
"""Bytes of a message that goes with its length in one call; a longer one is not copied for it."""


class Link:
    """One end of a line. What comes is read into one buffer of its length.

    The connections of `multiprocessing` collect a message piece by piece in a buffer that grows, which copies a large
    one several times over.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @staticmethod
    def pair() -> "tuple[Link, Link]":
        """Both ends of a new line."""
        one, other = socket.socketpair()
        return Link(one), Link(other)

    def fileno(self) -> int:
        """What `multiprocessing.connection.wait` waits for."""
        return self._end.fileno()

    def send(self, data: bytes) -> None:
        """Send a message.

        Raises:
            OSError: The other end is closed.
        """
        length = _LENGTH.pack(len(data))
        if len(data) <= _SHORT:
            self._end.sendall(length + data)
        else:
            self._end.sendall(length)
            self._end.sendall(data)

    def receive(self) -> bytes:
        """Wait for a message.

        Raises:
            EOFError: The other end is closed.
            OSError: The line is broken.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def close(self) -> None:
        """Let go of this end."""
        self._end.close()

    def _exactly(self, length: int) -> bytes:
        data = self._end.recv(length, socket.MSG_WAITALL) if length else b""
        while len(data) < length:  # a signal came, or the end
            more = self._end.recv(length - len(data), socket.MSG_WAITALL)
            if not more:
                raise EOFError("the other end of the line is closed")
            data += more
        return data
