"""``python -m pvemu.cli``."""

from __future__ import annotations

import sys

from pvemu.cli import main

sys.exit(main())
