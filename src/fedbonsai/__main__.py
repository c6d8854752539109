"""``fedbonsai`` and ``python -m fedbonsai``."""

import os
import sys


def main() -> None:
    """Start the command line."""
    # Torch reads these once, when it is loaded: threads that wait must not spin (see docs/architecture.md, "Speed").
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from fedbonsai.cli.app import start

    sys.exit(start(sys.argv[1:]))


if __name__ == "__main__":
    main()
