"""callback_op: where Xen enters the guest (public/callback.h)."""

from __future__ import annotations

from hypercalls.declare import ZERO, cstruct, u16
from hypercalls.public.arch_x86 import xen_callback  # noqa: TC001 - layouts evaluate annotations

CALLBACKTYPE_event = 0
CALLBACKTYPE_failsafe = 1
CALLBACKTYPE_syscall = 2
CALLBACKTYPE_sysenter_deprecated = 3
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5
CALLBACKTYPE_syscall32 = 7
CALLBACKF_mask_events = 1 << 0

CALLBACKOP_register = 0
CALLBACKOP_unregister = 1


@cstruct
class callback_register:
    type: u16 = 0
    flags: u16 = 0
    address: xen_callback = ZERO


@cstruct
class callback_unregister:
    type: u16 = 0
    _unused: u16 = 0
