"""The vcpu's own hypercalls: vcpu_op, timers, callbacks, traps, descriptor tables, debug registers, segment bases."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.errors import XenError
from hypercalls.public import arch_x86
from hypercalls.public import callback as cb
from hypercalls.public import vcpu as vc
from hypercalls.public.errno import EEXIST, EFAULT, EINVAL, ENODEV, ENOENT, ENOSYS, EPERM
from hypercalls.public.nmi import xennmi_callback
from tests.hypercalls.fake_context import BASE, BOTH, SIZE, FakeContext

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])
NONCANONICAL = 1 << 47
AREA = BASE + 0x4000

#: operation, vcpu, argument (None: null), result or port call
VCPU_OPS: list[tuple[int, int, object, object]] = [
    (vc.VCPUOP_up, 1, None, ("up", 1)),
    (vc.VCPUOP_up, 2, None, -ENOENT),
    (vc.VCPUOP_down, 1, None, ("down", 1)),
    (vc.VCPUOP_is_up, 1, None, 1),
    (vc.VCPUOP_initialise, 1, None, -EFAULT),
    (vc.VCPUOP_get_runstate_info, 0, None, -EFAULT),
    (vc.VCPUOP_send_nmi, 1, None, ("send_nmi", 1)),
    (vc.VCPUOP_send_nmi, 1, b"x", -EINVAL),
    (vc.VCPUOP_get_physid, 0, None, -EINVAL),
    (vc.VCPUOP_register_vcpu_info, 1, None, -EFAULT),
    (
        vc.VCPUOP_register_vcpu_info,
        1,
        vc.vcpu_register_vcpu_info(mfn=5, offset=64),
        ("register_vcpu_info", 1, 5, 64),
    ),
    (vc.VCPUOP_set_periodic_timer, 1, vc.vcpu_set_periodic_timer(period_ns=10**6), ("set_periodic_timer", 1, 10**6)),
    (vc.VCPUOP_set_periodic_timer, 0, vc.vcpu_set_periodic_timer(period_ns=10**6 - 1), -EINVAL),
    (vc.VCPUOP_set_periodic_timer, 0, vc.vcpu_set_periodic_timer(period_ns=1 << 62), -EINVAL),
    (vc.VCPUOP_set_periodic_timer, 0, None, -EFAULT),
    (vc.VCPUOP_stop_periodic_timer, 0, None, ("stop_periodic_timer", 0)),
    (
        vc.VCPUOP_set_singleshot_timer,
        0,
        vc.vcpu_set_singleshot_timer(timeout_abs_ns=1 << 40, flags=1),
        ("set_singleshot_timer", 1 << 40, True),
    ),
    (vc.VCPUOP_set_singleshot_timer, 1, vc.vcpu_set_singleshot_timer(), -EINVAL),
    (vc.VCPUOP_set_singleshot_timer, 0, None, -EFAULT),
    (vc.VCPUOP_stop_singleshot_timer, 0, None, ("stop_singleshot_timer",)),
    (vc.VCPUOP_stop_singleshot_timer, 1, None, -EINVAL),
    (14, 0, None, -ENOSYS),
    (14, 9, None, -ENOENT),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "vcpuid", "argument", "expected"), VCPU_OPS)
def test_vcpu_op(abi: Abi, cmd: int, vcpuid: int, argument: object, expected: object) -> None:
    context = FakeContext(abi)
    place = 0 if argument is None else context.put(argument)
    result = context.hypercall("vcpu_op", cmd, vcpuid, place)
    if isinstance(expected, int):
        assert result == expected
    else:
        assert (result, context.calls) == (0, [expected])


@WIDTHS
def test_vcpu_op_structures(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put(arch_x86.vcpu_guest_context(kernel_sp=0x9000))
    assert context.hypercall("vcpu_op", vc.VCPUOP_initialise, 1, BASE) == 0
    name, vcpuid, data = context.calls[-1]
    assert (name, vcpuid) == ("initialise", 1)
    assert isinstance(data, bytes)
    assert abi.unpack(arch_x86.vcpu_guest_context, data).kernel_sp == 0x9000
    context.answers["initialise"] = XenError(EEXIST)
    assert context.hypercall("vcpu_op", vc.VCPUOP_initialise, 1, BASE) == -EEXIST
    assert context.hypercall("vcpu_op", vc.VCPUOP_get_runstate_info, 0, AREA) == 0
    info = context.get(vc.vcpu_runstate_info, AREA)
    assert (info.state, info.state_entry_time, info.time) == (0, 1000, [1, 2, 3, 4])


@WIDTHS
def test_areas_are_pointers_of_the_width(abi: Abi) -> None:
    for cmd, call in (
        (vc.VCPUOP_register_runstate_memory_area, "register_runstate_area"),
        (vc.VCPUOP_register_vcpu_time_memory_area, "register_time_area"),
    ):
        context = FakeContext(abi)
        context.put([AREA, (1 << abi.bits) - 1])  # what is behind a pv32 pointer does not count
        assert context.hypercall("vcpu_op", cmd, 1, BASE) == 0
        assert context.calls == [(call, 1, AREA)]
        context.put([0xF5800000 if abi is ABI32 else NONCANONICAL])
        assert context.hypercall("vcpu_op", cmd, 1, BASE) == -EFAULT
        assert context.hypercall("vcpu_op", cmd, 1, 0) == -EFAULT


def test_set_timer_op_has_two_halves_in_pv32() -> None:
    context = FakeContext(ABI64)
    assert context.hypercall("set_timer_op", 5 << 32 | 6, 99) == 0
    assert context.calls == [("set_timer", 5 << 32 | 6)]
    context = FakeContext(ABI32)
    assert context.hypercall("set_timer_op", 6, 5) == 0
    assert context.calls == [("set_timer", 5 << 32 | 6)]


@WIDTHS
def test_trap_table(abi: Abi) -> None:
    context = FakeContext(abi)
    rows = [arch_x86.trap_info(vector=n, flags=n & 7, cs=0xE033, address=0x1000 + n) for n in (0, 3, 14)]
    context.put(b"".join(abi.pack(row) for row in [*rows, arch_x86.trap_info(), rows[0]]))
    assert context.hypercall("set_trap_table", BASE) == 0
    assert context.calls == [
        ("set_trap_table", [(0, 0, 0xE033, 0x1000), (3, 3, 0xE033, 0x1003), (14, 6, 0xE033, 0x100E)])
    ]
    assert context.hypercall("set_trap_table", 0) == 0
    assert context.calls[-1] == ("set_trap_table", [])
    # memory ends before the table does: what was there has been taken
    end = BASE + SIZE - abi.sizeof(arch_x86.trap_info)
    context.put(rows[1], end)
    assert context.hypercall("set_trap_table", end) == -EFAULT
    assert context.calls[-1] == ("set_trap_table", [(3, 3, 0xE033, 0x1003)])
    context.calls.clear()
    context.put(arch_x86.trap_info())
    assert context.hypercall("set_trap_table", BASE) == 0
    assert context.calls == []  # an empty table changes nothing


def test_a_trap_at_a_noncanonical_address() -> None:
    context = FakeContext()
    good, bad = arch_x86.trap_info(vector=1, address=5), arch_x86.trap_info(vector=2, address=NONCANONICAL)
    context.put(context.abi.pack(good) + context.abi.pack(bad))
    assert context.hypercall("set_trap_table", BASE) == -EINVAL
    assert context.calls == [("set_trap_table", [(1, 0, 0, 5)])]


def register(abi: Abi, type_: int, address: int, flags: int = 0) -> tuple[int, list[tuple[object, ...]]]:
    context = FakeContext(abi)
    place = arch_x86.xen_callback(cs=0xE019, eip=address)
    context.put(cb.callback_register(type=type_, flags=flags, address=place))
    return context.hypercall("callback_op", cb.CALLBACKOP_register, BASE), context.calls


@WIDTHS
def test_callback_op(abi: Abi) -> None:
    cs = 0xE019 if abi is ABI32 else 0
    for type_ in (cb.CALLBACKTYPE_event, cb.CALLBACKTYPE_failsafe, cb.CALLBACKTYPE_syscall32, cb.CALLBACKTYPE_sysenter):
        assert register(abi, type_, 0x5000, 1) == (0, [("register_callback", type_, 1, cs, 0x5000)])
    assert register(abi, cb.CALLBACKTYPE_nmi, 0x5000) == (0, [("register_nmi_callback", 0x5000)])
    assert register(abi, cb.CALLBACKTYPE_sysenter_deprecated, 0x5000) == (-ENOSYS, [])
    assert register(abi, cb.CALLBACKTYPE_syscall, 0x5000)[0] == (-ENOSYS if abi is ABI32 else 0)
    context = FakeContext(abi)
    for type_, expected in ((0, -EINVAL), (4, 0), (3, -ENOSYS), (2, -ENOSYS if abi is ABI32 else -EINVAL)):
        context.put(cb.callback_unregister(type=type_))
        assert context.hypercall("callback_op", cb.CALLBACKOP_unregister, BASE) == expected
    assert context.calls == [("unregister_callback", 4)]
    assert context.hypercall("callback_op", 2, BASE) == (-EINVAL if abi is ABI32 else -ENOSYS)
    assert context.hypercall("callback_op", cb.CALLBACKOP_register, 0) == -EFAULT
    assert context.hypercall("callback_op", cb.CALLBACKOP_unregister, 0) == -EFAULT


def test_set_callbacks() -> None:
    assert register(ABI64, cb.CALLBACKTYPE_event, NONCANONICAL) == (-EINVAL, [])
    context = FakeContext(ABI64)
    assert context.hypercall("set_callbacks", 0x1000, NONCANONICAL, 0x3000, 0x4000) == 0
    assert context.calls == [("register_callback", 0, 0, 0, 0x1000), ("register_callback", 2, 0, 0, 0x3000)]
    context = FakeContext(ABI32)
    assert context.hypercall("set_callbacks", 0xE019, 0x1000, 0xE019, 0x2000) == 0
    assert context.calls == [("register_callback", 0, 0, 0xE019, 0x1000), ("register_callback", 1, 0, 0xE019, 0x2000)]


@WIDTHS
def test_nmi_op(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put(xennmi_callback(handler_address=0x7000))
    assert context.hypercall("nmi_op", 0, BASE) == 0
    assert context.hypercall("nmi_op", 1, 0) == 0
    assert context.calls == [("register_nmi_callback", 0x7000), ("unregister_callback", cb.CALLBACKTYPE_nmi)]
    assert context.hypercall("nmi_op", 0, 0) == -EFAULT
    assert context.hypercall("nmi_op", 2, BASE) == -ENOSYS


@WIDTHS
def test_gdt(abi: Abi) -> None:
    context = FakeContext(abi)
    context.put([0x50, 0x51])
    assert context.hypercall("set_gdt", BASE, 513) == 0
    assert context.hypercall("set_gdt", 0, 0) == 0
    assert context.calls == [("set_gdt", [0x50, 0x51], 513), ("set_gdt", [], 0)]
    assert context.hypercall("set_gdt", BASE, 7169) == -EINVAL
    assert context.hypercall("set_gdt", 0, 1) == -EFAULT
    context.answers["set_gdt"] = XenError(EINVAL)
    assert context.hypercall("set_gdt", BASE, 512) == -EINVAL


def test_update_descriptor() -> None:
    context = FakeContext(ABI64)
    assert context.hypercall("update_descriptor", 0x123008, 0x00CF9B000000FFFF) == 0
    assert context.calls == [("update_descriptor", 0x123008, 0x00CF9B000000FFFF)]
    assert context.hypercall("update_descriptor", 0x123004, 0) == -EINVAL
    context = FakeContext(ABI32)
    assert context.hypercall("update_descriptor", 0x23008, 1, 0xFFFF, 0x00CF9B00) == 0
    assert context.calls == [("update_descriptor", 1 << 32 | 0x23008, 0x00CF9B000000FFFF)]


@WIDTHS
def test_stack_fpu_iret(abi: Abi) -> None:
    context = FakeContext(abi)
    assert context.hypercall("stack_switch", 0x1E02B, 0x9000) == 0
    assert context.hypercall("fpu_taskswitch", 1) == 0
    assert context.hypercall("fpu_taskswitch", 1 << 32) == 0
    assert context.hypercall("iret") == 0
    assert context.calls == [
        ("stack_switch", 0xE02B, 0x9000),
        ("fpu_taskswitch", True),
        ("fpu_taskswitch", False),
        ("iret",),
    ]


def test_segment_bases_are_for_64_bits() -> None:
    context = FakeContext(ABI64)
    for which, base, expected in (
        (arch_x86.SEGBASE_FS, 0x7000, 0),
        (arch_x86.SEGBASE_GS_KERNEL, NONCANONICAL, -EINVAL),
        (arch_x86.SEGBASE_GS_USER_SEL, NONCANONICAL | 0x2B, 0),
        (4, 0, -EINVAL),
    ):
        assert context.hypercall("set_segment_base", which, base) == expected
    assert context.calls == [("set_segment_base", 0, 0x7000), ("set_segment_base", 3, 0x2B)]
    assert FakeContext(ABI32).hypercall("set_segment_base", 0, 0) == -ENOSYS


def test_debug_registers() -> None:
    context = FakeContext(ABI64)
    for reg, value, expected in (
        (0, 0x1000, 0),
        (3, 0xFFFF800000000000, -EPERM),
        (6, 1 << 32, -EINVAL),
        (7, 1 << 13, -EPERM),
        (7, 1, 0),
        (8, 0, -ENODEV),
        ((1 << 32) - 1, 0, -ENODEV),
    ):
        assert context.hypercall("set_debugreg", reg, value) == expected
    assert context.hypercall("get_debugreg", 6) == 0xFFFF0FF0
    assert context.hypercall("get_debugreg", 8) == -ENODEV
