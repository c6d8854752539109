"""A worker that has a supervisor is waited for, not started a second time."""

import json
import threading
import time

import pytest

from fedbonsai.core.errors import ClientError
from fedbonsai.flower.pipe import HELLO, Home, ask, listening, write_private


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "w")
    made.make()
    write_private(made.command, json.dumps({"arguments": None, "directory": str(tmp_path)}).encode())
    return made


def test_a_supervised_worker_is_waited_for(home):
    def worker():
        time.sleep(0.3)
        with listening(home) as listener:
            listener.accept().close()  # somebody looks whether it is up
            with listener.accept() as pipe:
                pipe.send_bytes(pipe.recv_bytes() + b" heard")

    thread = threading.Thread(target=worker)
    thread.start()
    assert ask(home, HELLO, most=1000, patience=30.0) == HELLO + b" heard"
    thread.join()
    assert not home.log.exists()  # nothing was started here


def test_a_supervisor_that_does_nothing_is_told_of_soon(home, monkeypatch):
    monkeypatch.setattr("fedbonsai.flower.pipe.SUPERVISED", 0.2)
    began = time.monotonic()
    with pytest.raises(ClientError, match="did not come up in time"):
        ask(home, HELLO, most=1000, patience=600.0)
    assert time.monotonic() - began < 60
