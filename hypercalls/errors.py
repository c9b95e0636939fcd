"""The one exception a hypercall handler or a hypervisor port raises to refuse a guest's request.

It is turned into ``-errno`` at the single call site (``pvemu.hypervisor.hypercall``); any other exception is a
bug of this project and stops the run with a crash report.
"""

from __future__ import annotations

__all__ = ["XenError"]


class XenError(Exception):
    """A refusal as Xen's ABI knows it: ``errno`` is positive (public/errno.h), the guest sees ``-errno``."""

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(errno, reason)
        self.errno = errno
        self.reason = reason
