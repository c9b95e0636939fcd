"""``pvemu xl``: answers as Xen 4.17's xl where test runners and scripts call it, with domains in background processes.

A domain is a process with a control socket in a runtime directory; nothing needs root, and nothing stays once the last
domain is gone, but for a warm process that waits a few seconds for the next ``create``.
"""

from __future__ import annotations
