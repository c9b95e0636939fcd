"""``python -m pvemu.xl``: what an ``xl`` on the PATH runs."""

from __future__ import annotations

import os
import sys

from pvemu.xl.commands import main

try:
    code = main(sys.argv[1:])
    sys.stdout.flush()
except KeyboardInterrupt:
    code = 130
except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 141
sys.exit(code)
