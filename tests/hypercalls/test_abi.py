"""Declarations, layouts and packing: what is not Xen's but ours."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Annotated

import pytest

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.declare import (
    ONLY32,
    ONLY64,
    ZERO,
    Array,
    Bytes,
    PerWidth,
    cstruct,
    cunion,
    s16,
    u8,
    u16,
    u32,
    u64,
    ulong,
)
from hypercalls.describe import describe, to_construct
from hypercalls.public import arch_x86, xen
from hypercalls.public import event_channel as ec


@cunion
class Number:
    wide: u64 = 0
    narrow: u8 = 0


@cstruct
class Sample:
    first: u8 = 0
    wide: u64 = 0
    name: Annotated[bytes, Bytes(5)] = b""
    longs: Annotated[list[int], Array(ulong, PerWidth(2, 3))] = ZERO
    signed: s16 = 0
    here: Annotated[u32, ONLY64] = 0
    there: Annotated[u16, ONLY32] = 0
    number: Number = ZERO
    parts: Annotated[list[Number], Array(Number, 2)] = ZERO


WIDTHS = pytest.mark.parametrize("abi", [ABI64, ABI32], ids=["64", "32"])


def test_i386_aligns_64_bit_integers_to_4() -> None:
    assert (ABI64.offsetof(Sample, "wide"), ABI32.offsetof(Sample, "wide")) == (8, 4)
    assert (ABI64.alignof(Sample), ABI32.alignof(Sample)) == (8, 4)
    assert (ABI64.offsetof(Sample, "longs"), ABI32.offsetof(Sample, "longs")) == (24, 20)


@WIDTHS
def test_what_is_packed_comes_back(abi: Abi) -> None:
    sample = Sample(first=1, wide=1 << 63, name=b"abc", longs=[4, 5], signed=-2, number=Number(wide=9))
    sample.parts[1].narrow = 3
    data = abi.pack(sample)
    assert len(data) == abi.sizeof(Sample)
    again = abi.unpack(Sample, b"pad" + data, 3)
    assert (again.first, again.wide, again.name, again.signed) == (1, 1 << 63, b"abc\0\0", -2)
    assert again.longs == ([4, 5] if abi.bits == 64 else [4, 5, 0])
    assert (again.number.wide, again.number.narrow, again.parts[1].wide) == (9, 9, 3)
    assert abi.pack(again) == data


def test_fields_of_the_other_width_take_no_room() -> None:
    sample = Sample(here=5, there=6)
    assert ABI64.unpack(Sample, ABI64.pack(sample)).there == 0
    assert ABI32.unpack(Sample, ABI32.pack(sample)).there == 6
    with pytest.raises(KeyError, match="here in 32 bits"):
        ABI32.offsetof(Sample, "here")


def test_a_changed_union_member_is_packed() -> None:
    number = ABI64.unpack(Number, struct.pack("<Q", 0x1122))
    number.narrow = 0x33
    assert ABI64.pack(number) == struct.pack("<Q", 0x1133)


@WIDTHS
def test_a_reader_reads_only_what_it_names(abi: Abi) -> None:
    ops = [xen.mmuext_op(cmd=n, arg1=xen.mmuext_op_arg1(mfn=100 + n)) for n in range(3)]
    data = b"".join(abi.pack(op) for op in ops)
    layout = abi.reader(xen.mmuext_op, "cmd", "arg1.mfn")
    assert list(layout.iter_unpack(data)) == [(0, 100), (1, 101), (2, 102)]
    assert abi.reader(xen.mmuext_op, "cmd", "arg1.mfn") is layout
    with pytest.raises(ValueError, match="order"):
        abi.reader(xen.mmuext_op, "arg1.mfn", "cmd")


def test_paths_reach_into_arrays() -> None:
    inside = ABI64.offsetof(xen.shared_info, "vcpu_info[2].time.system_time")
    assert inside == 2 * 64 + 32 + 16
    with pytest.raises(KeyError):
        ABI64.offsetof(xen.shared_info, "vcpu_info[32]")


def test_objects_start_at_zero_and_do_not_share() -> None:
    one, other = xen.start_info(), xen.start_info()
    one.console.domU.mfn = 5
    assert other.console.domU.mfn == 0
    assert one != other
    assert Sample() == Sample()
    with pytest.raises(TypeError, match="nonsense"):
        Sample(nonsense=1)  # type: ignore[call-arg]  # the mistake under test


def test_argument_registers() -> None:
    values = {"rdi": 1, "rsi": 2, "rdx": 3, "r10": 4, "r8": 5, "r9": 6, "ebx": 1 << 40 | 7, "ecx": 8}
    assert ABI64.decode_args(values.__getitem__, 5) == (1, 2, 3, 4, 5)
    assert ABI32.decode_args(values.__getitem__, 2) == (7, 8)
    assert ABI32.arg_registers == ("ebx", "ecx", "edx", "esi", "edi", "ebp")


@pytest.mark.parametrize("bits", [64, 32])
def test_construct_reads_the_same(bits: int) -> None:
    abi = ABI64 if bits == 64 else ABI32
    status = ec.evtchn_status(dom=1, port=2, status=2, vcpu=3)
    status.u.interdomain.port = 9
    parsed = to_construct(ec.evtchn_status, bits).parse(abi.pack(status))
    assert (parsed.port, parsed.u.interdomain.port) == (2, 9)
    for cls in (xen.shared_info, xen.start_info, arch_x86.vcpu_guest_context):
        assert to_construct(cls, bits).sizeof() == abi.sizeof(cls)


def test_a_description_shows_what_is_set() -> None:
    context = arch_x86.vcpu_guest_context(kernel_sp=0xDEADBEEF)
    context.trap_ctxt[14].vector = 14
    context.gdt_frames[0] = 0x1234
    lines = describe(arch_x86.vcpu_guest_context, ABI32.pack(context), 32).splitlines()
    assert lines[0] == "vcpu_guest_context"
    assert "  kernel_sp = 0xdeadbeef" in lines
    assert "  trap_ctxt[14]:" in lines
    assert "  trap_ctxt[13]:" not in lines
    assert "  gdt_frames = [0x1234, 0...]" in lines
    assert describe(xen.mmu_update, b"abc", 64) == "mmu_update: 16 bytes wanted, 3 there: 616263"


def test_handlers_do_not_load_construct() -> None:
    code = "import sys, hypercalls.table; sys.exit('construct' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
