"""callback_op, set_callbacks and nmi_op (xen/arch/x86/pv/callback.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.public import callback as cb
from hypercalls.public import errno as e
from hypercalls.public import nmi
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import Callable

NONCANONICAL = 1 << 47


def _register(type: int, address: int = 0x1000) -> Callable[[World], int]:
    def provoke(world: World) -> int:
        argument = cb.callback_register(type=type)
        argument.address.eip = address
        return world.hypercall("callback_op", cb.CALLBACKOP_register, argument)

    return provoke


def _unregister(type: int) -> Callable[[World], int]:
    return lambda world: world.hypercall("callback_op", cb.CALLBACKOP_unregister, cb.callback_unregister(type=type))


def _nmi_handler(address: int) -> Callable[[World], int]:
    return lambda world: world.hypercall(
        "nmi_op", nmi.XENNMI_register_callback, nmi.xennmi_callback(handler_address=address)
    )


FAMILY = Family(
    documented={
        ("callback_op", e.ENOSYS): "64 bits: no such operation; do_callback_op",
        ("callback_op", e.EINVAL): "32 bits: the same; compat_callback_op",
        ("CALLBACKOP_register", e.EFAULT): "the structure is not mapped; do_callback_op",
        ("CALLBACKOP_register", e.EINVAL): "64 bits: the address is not canonical; register_guest_callback",
        ("CALLBACKOP_register", e.ENOSYS): "no such type, of 32 bits syscall neither; register_guest_callback",
        ("CALLBACKOP_unregister", e.EFAULT): "the structure is not mapped; do_callback_op",
        ("CALLBACKOP_unregister", e.EINVAL): "all but the NMI's stay; unregister_guest_callback",
        ("CALLBACKOP_unregister", e.ENOSYS): "no such type; unregister_guest_callback",
        ("nmi_op", e.ENOSYS): "no such operation; do_nmi_op",
        ("XENNMI_register_callback", e.EFAULT): "the structure is not mapped; do_nmi_op",
        ("XENNMI_register_callback", e.EINVAL): "64 bits: the address is not canonical; register_guest_nmi_callback",
    },
    cases=[
        Case("callback_op", e.ENOSYS, lambda world: world.hypercall("callback_op", 2, NOWHERE), bits=64),
        Case("callback_op", e.ENOSYS, lambda world: world.hypercall("callback_op", -1, NOWHERE), bits=64),
        Case("callback_op", e.EINVAL, lambda world: world.hypercall("callback_op", 2, NOWHERE), bits=32),
        Case("CALLBACKOP_register", e.EFAULT, lambda world: world.hypercall("callback_op", 0, NOWHERE)),
        Case("CALLBACKOP_register", e.EFAULT, lambda world: world.hypercall("callback_op", 0, world.xen), bits=64),
        *(Case("CALLBACKOP_register", e.EINVAL, _register(kind, NONCANONICAL), bits=64) for kind in (0, 4, 6, 0xFFFF)),
        *(Case("CALLBACKOP_register", e.ENOSYS, _register(kind)) for kind in (3, 6, 8, 0xFFFF)),
        Case("CALLBACKOP_register", e.ENOSYS, _register(cb.CALLBACKTYPE_syscall), bits=32),
        Case("CALLBACKOP_unregister", e.EFAULT, lambda world: world.hypercall("callback_op", 1, NOWHERE)),
        *(Case("CALLBACKOP_unregister", e.EINVAL, _unregister(kind)) for kind in (0, 1, 5, 7)),
        Case("CALLBACKOP_unregister", e.EINVAL, _unregister(cb.CALLBACKTYPE_syscall), bits=64),
        Case("CALLBACKOP_unregister", e.ENOSYS, _unregister(cb.CALLBACKTYPE_syscall), bits=32),
        *(Case("CALLBACKOP_unregister", e.ENOSYS, _unregister(kind)) for kind in (3, 6, 8, 0xFFFF)),
        Case("nmi_op", e.ENOSYS, lambda world: world.hypercall("nmi_op", 2, NOWHERE)),
        Case("nmi_op", e.ENOSYS, lambda world: world.hypercall("nmi_op", -1, NOWHERE)),
        Case("XENNMI_register_callback", e.EFAULT, lambda world: world.hypercall("nmi_op", 0, NOWHERE)),
        Case("XENNMI_register_callback", e.EINVAL, _nmi_handler(NONCANONICAL), bits=64),
    ],
    never_fails={
        "set_callbacks": "do_set_callbacks: what cannot be registered is left as it was",
        "XENNMI_unregister_callback": "do_nmi_op: there is no argument",
    },
)  # fmt: skip
