"""`gateway` and `python -m gateway`."""

from __future__ import annotations

import sys


def main() -> None:
    """The command line. Ctrl-C is an answer, not a fault, also while the modules are being loaded."""
    try:
        from gateway.cli.main import main as command  # noqa: PLC0415 - loading takes a second, in which Ctrl-C may come

        command(prog_name="gateway")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
