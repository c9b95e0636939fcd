"""A domain of either width with all of its real ports and its own page tables, but without a CPU or dom0.

Hypercalls go through ``hypercalls.table`` and the dispatcher as a guest's do. Guest memory, by linear address:

* ``PAGES``: pages that can be written; pfn n is at ``n << 12`` (``world.mfn(vaddr)`` is the frame);
* ``READ_ONLY``: the same, not to be written;
* ``NOWHERE``: not mapped; ``world.xen``: Xen's part.

Pfns from ``FREE`` on are mapped nowhere and used for nothing; the last ones stand ready for tests of their own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hypercalls.context import E820Entry
from hypercalls.public import arch_x86
from hypercalls.table import TABLE
from pvemu.cpu.paging import PageWalker
from pvemu.cpu.paging_pae import HYPERVISOR_COMPAT_VIRT_START, PaePageWalker
from pvemu.frames import Mfn
from pvemu.hypervisor.compat.page_types import m2p_entries
from pvemu.hypervisor.domain import Domain
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.grant_table import GrantTable
from pvemu.hypervisor.guest_access import GuestMemory
from pvemu.hypervisor.hypercall import HypercallContext, HypercallDispatcher
from pvemu.hypervisor.memory import Reservation
from pvemu.hypervisor.physdev import Physdev
from pvemu.hypervisor.sched import Sched
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import VirtualClock
from pvemu.hypervisor.vcpu.guest_context import GuestContexts
from pvemu.hypervisor.width import PV32, PV64, Width
from pvemu.hypervisor.xenoprof import Xenoprof
from pvemu.memory.machine_memory import MachineMemory

if TYPE_CHECKING:
    from pvemu.hypervisor.vcpu.operations import VcpuOperations

__all__ = ["DOM0", "DOMID", "FREE", "NOBODY", "NOWHERE", "NR_PAGES", "NR_VCPUS", "PAGES", "READ_ONLY", "WIDTHS",
           "World"]  # fmt: skip

DOMID, DOM0, NOBODY = 7, 0, 999  #: the caller, the one other domain, and none
NR_PAGES, NR_VCPUS = 128, 2
#: Of what the domain may have besides its memory.
SPARE_PAGES = 16
NOWHERE = 0x100
PAGES = range(0x10_000, 0x30_000)
READ_ONLY = range(0x30_000, 0x34_000)
FREE = 0x34  #: the first pfn that is used for nothing
WIDTHS = {64: PV64, 32: PV32}
_P, _RW, _US = 1, 2, 4


class Registers:
    """Registers of a kernel that makes a hypercall."""

    def __init__(self, is_compat: bool) -> None:
        cs = arch_x86.FLAT_RING1_CS if is_compat else arch_x86.FLAT_KERNEL_CS64
        ss = arch_x86.FLAT_RING1_SS if is_compat else arch_x86.FLAT_KERNEL_SS64
        self.values = {"cs": cs, "ss": ss, "rsp": PAGES.stop - 8, "rip": 0x1234, "rflags": 0x202}

    def read(self, name: str) -> int:
        return self.values.get(name, 0)

    def write(self, name: str, value: int) -> None:
        self.values[name] = value


class World:
    """The domain; attributes are the parts of one, named as in ``pvemu.machine``. ``next_put`` is where ``put`` puts
    a structure that has no address.
    """

    def __init__(self, width: Width, vcpus: int = NR_VCPUS) -> None:
        self.width, self.abi = width, width.abi
        self.clock = VirtualClock()
        self.log: list[str] = []
        self.left = 0  #: how often the engine was to be left
        self.is_stuck = False
        self._next_put = PAGES.start
        #: an address of Xen's, which no guest pointer may name
        self.xen = HYPERVISOR_COMPAT_VIRT_START if width.is_compat else arch_x86.HYPERVISOR_VIRT_START_X86_64
        self._make_memory()
        self._make_domain(vcpus)
        context = HypercallContext(
            abi=self.abi, guest=self.guest, domain=self.domain, vcpu=self.vcpu, event_channels=self.event_channels,
            grant_table=self.grants, mm=self.mm, descriptor_tables=self.descriptor_tables, sched=self.sched,
            physdev=Physdev(self.vcpu, self.types), xenoprof=Xenoprof(self.memory, self.abi.bits, vcpus),
        )  # fmt: skip
        self.hypercalls = HypercallDispatcher(TABLE, context)
        self._boot()

    # -- putting it together -----------------------------------------------------------------------------------------
    def _make_memory(self) -> None:
        width = self.width
        self.memory = memory = MachineMemory(NR_PAGES, width.is_compat)
        self.ram, self.frames, self.m2p = memory.ram, memory.frames, memory.m2p
        self.walker: PageWalker = (PaePageWalker if width.is_compat else PageWalker)(
            self.ram, lambda: None, lambda mfn: None, lambda vaddr: None
        )
        self.guest = GuestMemory(self.ram, self.walker)
        entries = m2p_entries(self.m2p.compat.superpages()) if self.m2p.compat is not None else {}
        self.types = width.page_types(self.ram, self.frames, entries)
        self.reservation = Reservation(
            self.ram, self.frames, self.m2p, NR_PAGES + SPARE_PAGES, memory.allocator.alloc_extent
        )
        self.frames.on_free = self._freed
        self.reservation.set_memory_map([E820Entry(0, NR_PAGES << 12, 1)])
        self.mm = width.mm(self.ram, self.frames, self.types, self.m2p, self.walker, self.reservation)
        self.grants = GrantTable(
            DOMID, self.ram, self.frames, self.types, self.mm, self.reservation, memory.alloc_shared
        )
        self.descriptor_tables = width.descriptor_tables(
            self.ram, self.frames, self.types, self.mm, memory.alloc_xen(), self.walker.flush
        )
        self.descriptor_tables.alloc_zero_page = memory.alloc_xen
        self.mfns = [Mfn(self.reservation.populate_physmap(pfn, 0)) for pfn in range(NR_PAGES)]

    def _freed(self, mfn: Mfn) -> None:
        self.reservation.frame_freed(mfn)
        self.memory.allocator.free(mfn)

    def _make_domain(self, vcpus: int) -> None:
        self.shared_info_mfn = self.memory.alloc_shared()
        self.shared_info = SharedInfo(self.abi, self.ram.frame(self.shared_info_mfn))
        self.reservation.guest_max_pfn = lambda: self.shared_info.max_pfn
        infos = self.shared_info.vcpu_infos(vcpus)
        pages = DomainPages(self.ram, self.types)
        self.event_channels = EventChannels(DOMID, self.shared_info, infos, pages, self.log.append)
        self.domain = Domain(DOMID, self.clock, self._leave)
        self.domain.log = self.log.append
        self.registers = Registers(self.width.is_compat)
        contexts = GuestContexts(self.abi, self.types, lambda image: None, self._enter, lambda: None)
        self.vcpus: list[VcpuOperations] = []
        for i in range(vcpus):
            vcpu = self.width.vcpu(
                self.abi, i, self.registers, self.clock, self.guest, pages, self.event_channels, infos, self._leave,
                self._enter, lambda: False,
            )  # fmt: skip
            vcpu.set_info_guest = partial(contexts.set, vcpu)
            vcpu.vcpus = self.vcpus
            self.vcpus.append(vcpu)
            if not i:
                self.vcpu = vcpu
        self.sched = Sched(
            self.clock, self.vcpu, self.event_channels, lambda: self.domain.shutdown_reason is not None, self._stuck
        )

    def _leave(self) -> None:
        self.left += 1

    def _enter(self, rip: int, rsp: int, cs: int, ss: int, rflags: int, _data: object = None) -> None:
        for name, value in zip(("rip", "rsp", "cs", "ss", "rflags"), (rip, rsp, cs, ss, rflags), strict=True):
            self.registers.write(name, value)

    def _stuck(self) -> None:
        self.is_stuck = True

    def _boot(self) -> None:
        """Tables in pfns 0 (the root) to 3, the L1 last; of 32 bits pfn 4 is the L2 with Xen's mappings."""
        self.root, *tables = self.mfns[: self.width.root_level]
        self.l1 = tables[-1]
        upper = [self.root, *tables]
        for level, mfn in enumerate(tables):
            is_l3 = self.width.is_compat and not level
            self.poke(upper[level], 0, mfn << 12 | (_P if is_l3 else _P | _RW | _US))
        if self.width.is_compat:
            self.poke(self.root, 3, self.mfns[4] << 12 | _P)
        for vaddr in range(PAGES.start, READ_ONLY.stop, 0x1000):
            flags = _P | _US if vaddr in READ_ONLY else _P | _RW | _US
            self.poke(self.l1, vaddr >> 12, self.mfns[vaddr >> 12] << 12 | flags)
        self.mm.pin_table(self.width.root_level, self.root)
        self.mm.new_baseptr(self.root)

    # -- for tests ---------------------------------------------------------------------------------------------------
    def poke(self, mfn: int, slot: int, entry: int) -> None:
        """Write a page-table entry behind everybody's back: only into frames that are no tables yet."""
        self.ram.write_u64((mfn << 12) + 8 * slot, entry)

    def entry(self, mfn: int, slot: int) -> int:
        """A page-table entry as it stands in memory."""
        return self.ram.read_u64((mfn << 12) + 8 * slot)

    def mfn(self, vaddr: int) -> Mfn:
        """The frame of one of ``PAGES`` or ``READ_ONLY``."""
        return self.mfns[vaddr >> 12]

    def hypercall(self, name: str, *args: object) -> int:
        """By name; missing arguments are 0. What is no number is put into memory, and its address is the argument."""
        number = next(number for number, row in TABLE.items() if row.name == name)
        values = [arg if isinstance(arg, int) else self.put(arg) for arg in args]
        return self.hypercalls.call(number, [value & self.abi.long_mask for value in (*values, 0, 0, 0, 0, 0, 0)[:6]])

    def put(self, value: object, vaddr: int | None = None) -> int:
        """Store a structure (or bytes, or longs of the width) in guest memory; its address."""
        if isinstance(value, bytes):
            data = value
        elif isinstance(value, list):
            data = b"".join([(item & self.abi.long_mask).to_bytes(self.abi.long_size, "little") for item in value])
        else:
            data = self.abi.pack(value)
        if vaddr is None:
            vaddr, self._next_put = self._next_put, self._next_put + -(-len(data) // 64) * 64
            assert self._next_put <= PAGES.stop, "no room for what is put"
        self.guest.copy_to_guest(vaddr, data)
        return vaddr

    def put_read_only(self, value: object) -> int:
        """The same in memory that the guest cannot write: an answer does not fit in."""
        data = value if isinstance(value, bytes) else self.abi.pack(value)
        self.ram.write(self.mfn(READ_ONLY.start) << 12, data)
        return READ_ONLY.start

    def get(self, cls: type[Any], vaddr: int) -> Any:
        """The structure at an address."""
        return self.abi.unpack(cls, self.guest.copy_from_guest(vaddr, self.abi.sizeof(cls)))

    def longs(self, vaddr: int, count: int) -> list[int]:
        """Longs of the width at an address."""
        size = self.abi.long_size
        data = self.guest.copy_from_guest(vaddr, count * size)
        return memoryview(data).cast("Q" if size == 8 else "I").tolist()
