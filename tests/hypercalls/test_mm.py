"""mmu_update, mmuext_op, update_va_mapping, multicall."""

from __future__ import annotations

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.errors import XenError
from hypercalls.public import xen
from hypercalls.public.errno import EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from tests.hypercalls.fake_context import BASE, BOTH, OWN_DOMID, SIZE, FakeContext, FakeVcpu

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])
PREEMPTED = 1 << 31
PDONE = BASE + 0x20000
END = BASE + SIZE


def updates(context: FakeContext, count: int, vaddr: int = BASE) -> int:
    return context.put(b"".join(context.abi.pack(xen.mmu_update(ptr=8 * n, val=n)) for n in range(count)), vaddr)


def done(context: FakeContext) -> int:
    return int.from_bytes(context.guest.copy_from_guest(PDONE, 4), "little")


@WIDTHS
def test_mmu_update_does_all_and_says_so(abi: Abi) -> None:
    context = FakeContext(abi)
    updates(context, 2500)
    assert context.hypercall("mmu_update", BASE, 2500, PDONE, xen.DOMID_SELF) == 0
    assert context.calls == [("mmu_update", 8 * n, n, False) for n in range(2500)]
    assert done(context) == 2500


@WIDTHS
def test_mmu_update_stops_at_the_first_failure(abi: Abi) -> None:
    def refuse_third(ptr: int, val: int, is_io: bool) -> None:
        if val == 2:
            raise XenError(EINVAL)

    context = FakeContext(abi, mmu_update=refuse_third)
    updates(context, 5)
    assert context.hypercall("mmu_update", BASE, 5, PDONE, xen.DOMID_SELF) == -EINVAL
    assert len(context.calls) == 3
    assert done(context) == 2


def test_mmu_update_does_what_is_before_a_fault() -> None:
    context = FakeContext()
    updates(context, 3, END - 48)
    assert context.hypercall("mmu_update", END - 48, 5, PDONE, xen.DOMID_SELF) == -EFAULT
    assert len(context.calls) == 3
    assert done(context) == 3


@WIDTHS
def test_mmu_update_goes_on_after_a_preemption(abi: Abi) -> None:
    context = FakeContext(abi)
    updates(context, 2)
    context.put((40).to_bytes(4, "little"), PDONE)
    assert context.hypercall("mmu_update", BASE, 2 | PREEMPTED, PDONE, xen.DOMID_SELF) == 0
    assert done(context) == 42
    assert context.hypercall("mmu_update", 0, PREEMPTED, 0, (1 << 32) - EINVAL) == -EINVAL
    assert context.hypercall("mmu_update", BASE, 1 | PREEMPTED, 1, xen.DOMID_SELF) == 0  # a bad pdone is nobody's


@WIDTHS
@pytest.mark.parametrize(
    ("foreigndom", "expected"),
    [
        (xen.DOMID_SELF, 0),
        (OWN_DOMID, -ESRCH),
        (0, -EPERM),
        (99, -ESRCH),
        (xen.DOMID_IO, 0),
        (xen.DOMID_IO | 1 << 16, -EPERM),
        (xen.DOMID_XEN, -EPERM),
        (xen.DOMID_SELF | (OWN_DOMID + 1) << 16, 0),
        (xen.DOMID_SELF | 1 << 16, -EPERM),
        (xen.DOMID_SELF | 99 << 16, -ESRCH),
    ],
)
def test_mmu_update_for_whom(abi: Abi, foreigndom: int, expected: int) -> None:
    context = FakeContext(abi)
    updates(context, 1)
    assert context.hypercall("mmu_update", BASE, 1, 0, foreigndom) == expected


def test_mmu_update_commands() -> None:
    context = FakeContext()
    context.put(context.abi.pack(xen.mmu_update(ptr=0x1004)))
    assert context.hypercall("mmu_update", BASE, 1, 0, xen.DOMID_SELF) == -ENOSYS
    context.put(context.abi.pack(xen.mmu_update(ptr=0x1003)))
    assert context.hypercall("mmu_update", BASE, 1, 0, xen.DOMID_SELF) == 0
    assert context.hypercall("mmu_update", 1 << 47, 1, 0, xen.DOMID_SELF) == -EFAULT


def test_no_address_of_32_bits_is_refused_unseen() -> None:
    """array_access_ok of a 64-bit Xen: what is not mapped faults when it is read, not before."""
    context = FakeContext(ABI32)
    assert context.hypercall("mmu_update", 0xF5800000, 1, PDONE, xen.DOMID_SELF) == -EFAULT
    assert context.hypercall("mmu_update", 0xF5800000, 0, PDONE, xen.DOMID_SELF) == 0


MASK = BASE + 0x1000
MMUEXT = [
    (xen.MMUEXT_PIN_L1_TABLE, 5, 0, ("pin_table", 1, 5)),
    (xen.MMUEXT_PIN_L2_TABLE, 5, 0, ("pin_table", 2, 5)),
    (xen.MMUEXT_PIN_L3_TABLE, 5, 0, ("pin_table", 3, 5)),
    (xen.MMUEXT_UNPIN_TABLE, 5, 0, ("unpin_table", 5)),
    (xen.MMUEXT_NEW_BASEPTR, 5, 0, ("new_baseptr", 5)),
    (xen.MMUEXT_NEW_USER_BASEPTR, 5, 0, ("new_user_baseptr", 5)),
    (xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0, ("tlb_flush",)),
    (xen.MMUEXT_TLB_FLUSH_ALL, 0, 0, ("tlb_flush",)),
    (xen.MMUEXT_TLB_FLUSH_MULTI, 0, MASK, ("tlb_flush",)),
    (xen.MMUEXT_TLB_FLUSH_MULTI, 0, 0, -EINVAL),
    (xen.MMUEXT_INVLPG_LOCAL, 0x5000, 0, ("invlpg", 0x5000)),
    (xen.MMUEXT_INVLPG_ALL, 0x5000, 0, ("invlpg", 0x5000)),
    (xen.MMUEXT_INVLPG_MULTI, 0x5000, MASK, ("invlpg", 0x5000)),
    (xen.MMUEXT_INVLPG_MULTI, 0x5000, 0, -EINVAL),
    (xen.MMUEXT_FLUSH_CACHE, 0, 0, -EACCES),
    (xen.MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0, -EINVAL),
    (xen.MMUEXT_SET_LDT, 0x6000, 3, ("set_ldt", 0x6000, 3)),
    (xen.MMUEXT_SET_LDT, 0x6001, 3, -EINVAL),
    (xen.MMUEXT_SET_LDT, 0x6000, 8193, -EINVAL),
    (xen.MMUEXT_SET_LDT, 0x6001, 0, ("set_ldt", 0, 0)),
    (xen.MMUEXT_CLEAR_PAGE, 9, 0, ("clear_page", 9)),
    (xen.MMUEXT_COPY_PAGE, 9, 8, ("copy_page", 9, 8)),
    (xen.MMUEXT_MARK_SUPER, 0, 0, -EOPNOTSUPP),
    (14, 0, 0, -ENOSYS),
    (99, 0, 0, -ENOSYS),
]


@WIDTHS
@pytest.mark.parametrize(("cmd", "arg1", "arg2", "expected"), MMUEXT)
def test_mmuext_op(abi: Abi, cmd: int, arg1: int, arg2: int, expected: object) -> None:
    context = FakeContext(abi)
    op = xen.mmuext_op(cmd=cmd, arg1=xen.mmuext_op_arg1(mfn=arg1), arg2=xen.mmuext_op_arg2(src_mfn=arg2))
    context.put(abi.pack(op) * 2)
    result = context.hypercall("mmuext_op", BASE, 2, PDONE, xen.DOMID_SELF)
    if isinstance(expected, int):
        assert (result, context.calls, done(context)) == (expected, [], 0)
    else:
        assert (result, context.calls, done(context)) == (0, [expected] * 2, 2)


def test_pv32_has_no_level_4() -> None:
    for abi, calls in ((ABI64, [("pin_table", 4, 5)]), (ABI32, [])):
        context = FakeContext(abi)
        context.put(xen.mmuext_op(cmd=xen.MMUEXT_PIN_L4_TABLE, arg1=xen.mmuext_op_arg1(mfn=5)))
        assert context.hypercall("mmuext_op", BASE, 1, 0, xen.DOMID_SELF) == 0
        assert context.calls == calls


@pytest.mark.parametrize(("domid", "expected"), [(OWN_DOMID, -ESRCH), (0, -EPERM), (xen.DOMID_IO, -EPERM), (9, -ESRCH)])
def test_mmuext_op_for_whom(domid: int, expected: int) -> None:
    context = FakeContext()
    assert context.hypercall("mmuext_op", BASE, 1, PDONE, domid) == expected
    assert context.calls == []


def test_no_operations_of_32_bits_are_nobodys() -> None:
    """compat_mmuext_op hands nothing on: not the page owner, not ``pdone``."""
    for abi, expected, left in ((ABI64, -ESRCH, 77), (ABI32, 0, 77)):
        context = FakeContext(abi)
        context.put((77).to_bytes(4, "little"), PDONE)
        assert context.hypercall("mmuext_op", BASE, 0, PDONE, 99) == expected
        assert done(context) == left
    context.put((77).to_bytes(4, "little"), PDONE)
    assert context.hypercall("mmuext_op", BASE, 0, PDONE, xen.DOMID_SELF) == 0
    assert done(context) == 77


def test_update_va_mapping_takes_its_value_in_two_halves_in_pv32() -> None:
    context = FakeContext(ABI64)
    assert context.hypercall("update_va_mapping", 0x1000, 0x8000000000000027, xen.UVMF_INVLPG) == 0
    assert context.calls == [("update_va_mapping", 0x1000, 0x8000000000000027, xen.UVMF_INVLPG)]
    context = FakeContext(ABI32)
    assert context.hypercall("update_va_mapping", 0x1000, 0x27, 0x80000000, xen.UVMF_ALL | xen.UVMF_TLB_FLUSH) == 0
    assert context.calls == [("update_va_mapping", 0x1000, 0x8000000000000027, xen.UVMF_ALL | xen.UVMF_TLB_FLUSH)]


def test_update_va_mapping_errors() -> None:
    context = FakeContext(update_va_mapping=XenError(EINVAL))
    assert context.hypercall("update_va_mapping", 0x1000, 0, 0) == -EINVAL
    context = FakeContext()
    assert context.hypercall("update_va_mapping", 0x1000, 0, xen.UVMF_TLB_FLUSH | 0x7000) == -EFAULT  # vcpu bitmap
    assert context.hypercall("update_va_mapping", 0x1000, 0, xen.UVMF_TLB_FLUSH | MASK) == 0
    assert context.hypercall("update_va_mapping", 0x1000, 0, 0x7000) == 0  # no flush, no bitmap


def test_update_va_mapping_otherdomain() -> None:
    for domid, expected in ((xen.DOMID_SELF, 0), (OWN_DOMID, -ESRCH), (0, -EPERM), (9, -ESRCH)):
        assert FakeContext(ABI64).hypercall("update_va_mapping_otherdomain", 0x1000, 7, 0, domid) == expected
        context = FakeContext(ABI32)
        assert context.hypercall("update_va_mapping_otherdomain", 0x1000, 7, 1, 0, domid) == expected
        assert context.calls == ([] if expected else [("update_va_mapping", 0x1000, 7 | 1 << 32, 0)])


def entries(context: FakeContext, *calls: tuple[int, ...], vaddr: int = BASE) -> None:
    context.put(b"".join(context.abi.pack(xen.multicall_entry(op=op, args=list(args))) for op, *args in calls), vaddr)


@WIDTHS
def test_multicall_has_a_result_for_each_call(abi: Abi) -> None:
    context = FakeContext(abi)
    entries(
        context,
        (xen.__HYPERVISOR_xen_version, 0, 0),
        (xen.__HYPERVISOR_multicall, BASE, 1),
        (xen.__HYPERVISOR_stack_switch, 0xE02B, 0x9000),
        (1000,),
    )
    assert context.hypercall("multicall", BASE, 4) == 0
    size = abi.sizeof(xen.multicall_entry)
    results = [context.get(xen.multicall_entry, BASE + n * size).result for n in range(4)]
    assert results == [4 << 16 | 17, -EINVAL & abi.long_mask, 0, -ENOSYS & abi.long_mask]
    assert context.calls == [("stack_switch", 0xE02B, 0x9000)]


@WIDTHS
def test_multicall_goes_on_as_another_when_something_comes_in_between(abi: Abi) -> None:
    context = FakeContext(abi)
    call = (xen.__HYPERVISOR_fpu_taskswitch, 1)
    entries(context, call, call, call, call)
    assert isinstance(context.vcpu, FakeVcpu)
    context.vcpu.preempted_after = 2
    context.answers["create_continuation"] = lambda op, *args: op
    assert context.hypercall("multicall", BASE, 4) == xen.__HYPERVISOR_multicall
    rest = BASE + 2 * abi.sizeof(xen.multicall_entry)
    assert context.calls[2:] == [("create_continuation", xen.__HYPERVISOR_multicall, rest, 2)]


@WIDTHS
def test_multicall_ends_at_iret_and_at_faults(abi: Abi) -> None:
    context = FakeContext(abi)
    entries(context, (xen.__HYPERVISOR_iret,), (xen.__HYPERVISOR_stack_switch, 1, 2))
    assert context.hypercall("multicall", BASE, 2) == 0
    assert context.calls == [("iret",)]
    size = abi.sizeof(xen.multicall_entry)
    entries(context, (xen.__HYPERVISOR_fpu_taskswitch, 1), vaddr=END - size)
    assert context.hypercall("multicall", END - size, 2) == -EFAULT
    assert context.calls[1:] == [("fpu_taskswitch", True)]
    assert context.hypercall("multicall", 0, 1) == -EFAULT
    assert context.hypercall("multicall", 0, 0) == 0
