"""xl.cfg as xl itself reads it: its scanner and grammar, its disk specifications, its keys and what becomes of them."""

from __future__ import annotations

from pvemu.xlcfg.errors import XlConfigError

__all__ = ["XlConfigError"]
