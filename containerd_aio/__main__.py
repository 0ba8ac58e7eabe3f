"""``python -m containerd_aio``: the command ``containerd-aio``."""

import sys

from containerd_aio.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
