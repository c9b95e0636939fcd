"""A context for handlers without a hypervisor: sparse guest memory, and ports that note calls and answer as told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.context import (
    Context,
    DescriptorTables,
    DomainPort,
    E820Entry,
    EventChannelPort,
    EvtchnStatus,
    GrantTablePort,
    MmPort,
    PhysdevPort,
    SchedPort,
    VcpuPort,
    XenoprofPort,
)
from hypercalls.errors import XenError
from hypercalls.public.errno import EFAULT, ENOSYS
from hypercalls.public.event_channel import EVTCHNSTAT_ipi
from hypercalls.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OWN_DOMID = 7
#: mapped guest memory: everything else faults
BASE, SIZE = 0x10000, 0x40000
HANDLE = bytes(range(16))


class FakeGuest:
    """Guest memory from BASE on; ``read_only`` addresses cannot be written."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.read_only: range = range(0)

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        if vaddr < BASE or vaddr + size > BASE + SIZE:
            raise XenError(EFAULT, f"{vaddr:#x}")
        return bytes(self.memory[vaddr - BASE : vaddr - BASE + size])

    def copy_to_guest(self, vaddr: int, data: bytes) -> None:
        refused = range(max(vaddr, self.read_only.start), min(vaddr + len(data), self.read_only.stop))
        if vaddr < BASE or vaddr + len(data) > BASE + SIZE or refused:
            raise XenError(EFAULT, f"{vaddr:#x}")
        self.memory[vaddr - BASE : vaddr - BASE + len(data)] = data


#: what the ports answer when a test says nothing else
ANSWERS: dict[str, Any] = {
    "alloc_unbound": 11,
    "bind_interdomain": 12,
    "bind_virq": 13,
    "bind_ipi": 14,
    "bind_pirq": 15,
    "status": EvtchnStatus(EVTCHNSTAT_ipi, 0, ()),
    "init_control": 17,
    "setup_table": (0, [0x100, 0x101]),
    "set_version": 1,
    "get_version": 1,
    "query_size": (0, 4, 32),
    "map_grant_ref": (0, 5, 0x123000),
    "unmap_grant_ref": 0,
    "unmap_and_replace": 0,
    "transfer": -9,
    "copy": 0,
    "get_status_frames": (0, [0x200]),
    "swap_grant_ref": 0,
    "populate_physmap": 0x777,
    "increase_reservation": 0x888,
    "exchange_frames": lambda in_mfns, out_order, count, bits: [0x900 + i for i in range(count)],
    "maximum_ram_page": 0x8000,
    "current_reservation": 0x2000,
    "maximum_reservation": 0x2100,
    "maximum_gpfn": 0x1FFF,
    "memory_map": [E820Entry(0, 0xA0000, 1), E820Entry(0x100000, 0x700000, 1)],
    "machphys_mfn_list": [0x40, 0x41, 0x42],
    "machphys_compat_mfn_list": [0x50, 0x51],
    "get_free_pirq": 17,
    "has_vm_assist": False,
    "now": 123_456_789_012,
    "machphys_mapping": (0xF5800000, 0xF6800000, 0x3FFFFF),
    "get_debugreg": 0xFFFF0FF0,
    "is_up": True,
    "get_buffer": (1, 1024, 0x40_000_000),
    "runstate": (0, 1000, (1, 2, 3, 4)),
    "watchdog": 1,
}


class FakePort:
    """Any port: notes (name, arguments) in ``calls``, then raises or answers as the context says."""

    def __init__(self, context: FakeContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*given: object) -> Any:
            args = [list(arg) if isinstance(arg, Iterator) else arg for arg in given]
            self._context.calls.append((name, *args))
            answer = self._context.answers.get(name)
            if isinstance(answer, XenError):
                raise answer
            return answer(*args) if callable(answer) else answer

        return method


class FakeVcpu(FakePort):
    """The calling vcpu is 0; vcpus 0 and 1 exist. ``preempted_after``: the look that finds something to do, if any."""

    vcpu_id = 0
    preempted_after = 0

    def preempt_check(self) -> bool:
        self.preempted_after -= 1
        return self.preempted_after == 0

    def exists(self, vcpuid: int) -> bool:
        return vcpuid < 2

    def has_info(self, vcpuid: int) -> bool:
        return True


class FakeDomain(FakePort):
    domid = OWN_DOMID
    handle = HANDLE


class FakeContext:
    """What a handler sees. ``calls`` lists the port calls made, ``answers`` what ports return or raise."""

    def __init__(self, abi: Abi = ABI64, **answers: Any) -> None:
        self.abi = abi
        self.guest = FakeGuest()
        self.calls: list[tuple[object, ...]] = []
        self.answers = ANSWERS | answers
        port = FakePort(self)
        self.domain: DomainPort = FakeDomain(self)
        self.vcpu: VcpuPort = FakeVcpu(self)
        self.event_channels: EventChannelPort = port
        self.grant_table: GrantTablePort = port
        self.answers.setdefault("begin_copy", lambda: port)
        self.mm: MmPort = port
        self.descriptor_tables: DescriptorTables = port
        self.sched: SchedPort = port
        self.physdev: PhysdevPort = port
        self.xenoprof: XenoprofPort = port

    def call(self, op: int, args: Sequence[int]) -> int:
        """As the hypervisor's one call site does it."""
        row = TABLE.get(op)
        if row is None:
            return -ENOSYS
        context: Context = self
        try:
            return row.handler(context, *args[: row.nargs])
        except XenError as error:
            return -error.errno

    def extra_version(self) -> str:
        return ".7"

    # -- for tests
    def hypercall(self, name: str, *args: int) -> int:
        """By name; missing arguments are 0, and cut to the width."""
        op = next(number for number, row in TABLE.items() if row.name == name)
        padded = [arg & self.abi.long_mask for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
        return self.call(op, padded)

    def put(self, value: object, vaddr: int = BASE) -> int:
        """Store a structure (or bytes, or longs of the width) in guest memory; its address."""
        if isinstance(value, bytes):
            data = value
        elif isinstance(value, list):
            data = b"".join([item.to_bytes(self.abi.long_size, "little") for item in value])
        else:
            data = self.abi.pack(value)
        self.guest.copy_to_guest(vaddr, data)
        return vaddr

    def get(self, cls: type[Any], vaddr: int = BASE) -> Any:
        """The structure at an address."""
        return self.abi.unpack(cls, self.guest.copy_from_guest(vaddr, self.abi.sizeof(cls)))

    def longs(self, vaddr: int, count: int) -> list[int]:
        """Longs of the width at an address."""
        size = self.abi.long_size
        data = self.guest.copy_from_guest(vaddr, count * size)
        return memoryview(data).cast("Q" if size == 8 else "I").tolist()


BOTH = (ABI64, ABI32)
