"""Who runs, and for how long (xen/common/sched)."""

from __future__ import annotations

from pvemu.hypervisor.sched.sched import Sched

__all__ = ["Sched"]
