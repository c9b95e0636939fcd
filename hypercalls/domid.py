"""Which domain a guest means, and whether it may (xen/common/domain.c rcu_lock_*, xen/include/xsm/dummy.h).

As an unprivileged domain sees the machine: itself and domain 0 exist, and it may act on itself alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public.errno import EPERM, ESRCH
from hypercalls.public.xen import DOMID_IO, DOMID_SELF, DOMID_XEN

if TYPE_CHECKING:
    from hypercalls.context import Context

__all__ = [
    "check_existing_domain",
    "check_pg_owner",
    "check_remote_domain",
    "check_remote_domain_exists",
    "check_target_domain",
]


def check_existing_domain(ctx: Context, domid: int) -> None:
    """``rcu_lock_domain_by_any_id``: returns for the caller and domain 0, else ESRCH."""
    if domid not in (DOMID_SELF, 0, ctx.domain.domid):
        raise XenError(ESRCH, f"domain {domid}")


def check_target_domain(ctx: Context, domid: int) -> None:
    """``rcu_lock_domain_by_any_id`` and ``XSM_TARGET``: returns for the caller; EPERM for domain 0, else ESRCH."""
    own = ctx.domain.domid
    if domid in (DOMID_SELF, own):
        return
    raise XenError(EPERM if domid == 0 else ESRCH, f"domain {domid}")


def check_remote_domain(ctx: Context, domid: int) -> None:
    """``rcu_lock_remote_domain_by_id`` and a privileged check: never returns. EPERM where the domain exists."""
    check_remote_domain_exists(ctx, domid)
    raise XenError(EPERM, f"domain {domid}")


def check_remote_domain_exists(ctx: Context, domid: int) -> None:
    """``rcu_lock_remote_domain_by_id``: returns for domain 0; EPERM for the caller by its number, else ESRCH."""
    if domid:
        raise XenError(EPERM if domid == ctx.domain.domid else ESRCH, f"domain {domid}")


def check_pg_owner(ctx: Context, domid: int) -> int:
    """``get_pg_owner`` (xen/arch/x86/mm.c) and its permission: 0 for DOMID_SELF, ``-EPERM`` for a domain that exists.

    The caller's own number is refused like an unknown one: XenError(ESRCH).
    """
    if domid == DOMID_SELF:
        return 0
    if domid == ctx.domain.domid or domid not in (0, DOMID_IO, DOMID_XEN):
        raise XenError(ESRCH, f"page owner {domid}")
    return -EPERM
