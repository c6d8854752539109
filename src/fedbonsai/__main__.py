"""``fedbonsai`` and ``python -m fedbonsai``."""

import os
import signal
import sys


def main() -> None:
    """Start the command line."""
    signal.signal(signal.SIGINT, _leave)
    # Torch reads these once, when it is loaded: threads that wait must not spin (see docs/architecture.md, "Speed").
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from fedbonsai.cli.app import start

    sys.exit(start(sys.argv[1:]))


def _leave(*_: object) -> None:
    """Ctrl-C before any work has begun: an exception would be lost, or make others, in the middle of imports."""
    os.write(sys.stderr.fileno(), b"interrupted before anything was done\n")
    os._exit(130)


if __name__ == "__main__":
    main()
