"""What a hypercall handler may ask of a hypervisor: protocols only, no code.

A handler is ``do_<name>(ctx, *args) -> int``: it decodes the guest's structures, calls one of these ports, encodes the
answer and returns a value or ``-errno`` (Xen's ``do_`` half). The ports keep the state; they raise
:class:`hypercalls.errors.XenError` to refuse. All addresses are guest linear addresses, all frames machine frames
unless a name says otherwise, all times nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hypercalls.abi import Abi

__all__ = [
    "Context",
    "CopySide",
    "DescriptorTables",
    "DomainPort",
    "E820Entry",
    "EventChannelPort",
    "EvtchnStatus",
    "GrantCopyPort",
    "GrantTablePort",
    "GuestAccess",
    "MmPort",
    "PhysdevPort",
    "SchedPort",
    "TrapEntry",
    "VcpuPort",
    "XenoprofPort",
]  # fmt: skip


class GuestAccess(Protocol):
    """Copies to and from the calling vcpu's address space (xen/arch/x86/usercopy.c)."""

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        """``size`` bytes at ``vaddr``; XenError(EFAULT) where a page is not mapped for the guest."""

    def copy_to_guest(self, vaddr: int, data: bytes) -> None:
        """Write ``data`` at ``vaddr``; XenError(EFAULT) where a page is not mapped writable for the guest."""


class TrapEntry(NamedTuple):
    """One row of a trap table (public/arch-x86/xen.h struct trap_info), both widths."""

    vector: int
    flags: int
    cs: int
    address: int


class E820Entry(NamedTuple):
    """One row of the pseudo-physical memory map: bytes, and the E820 type (1 RAM, 2 reserved)."""

    addr: int
    size: int
    type: int


class EvtchnStatus(NamedTuple):
    """What EVTCHNOP_status tells: ``status`` is an EVTCHNSTAT_*; ``detail`` by status (see event_channel.h):
    unbound (dom,), interdomain (dom, port), pirq (irq,), virq (virq,), else ().
    """

    status: int
    vcpu: int
    detail: tuple[int, ...]


class EventChannelPort(Protocol):
    """xen/common/event_channel.c. Every method raises XenError with the errno that Xen gives."""

    def alloc_unbound(self, dom: int, remote_dom: int) -> int: ...
    def bind_interdomain(self, remote_dom: int, remote_port: int) -> int: ...
    def bind_virq(self, virq: int, vcpu: int) -> int: ...
    def bind_ipi(self, vcpu: int) -> int: ...
    def bind_pirq(self, pirq: int, flags: int) -> int: ...
    def close(self, port: int) -> None: ...
    def send(self, port: int) -> None: ...
    def status(self, dom: int, port: int) -> EvtchnStatus: ...
    def bind_vcpu(self, port: int, vcpu: int) -> None: ...
    def unmask(self, port: int) -> None: ...
    def reset(self, dom: int, resuming: bool) -> None:
        """``resuming``: go on with a reset that Xen interrupted (EVTCHNOP_reset_cont)."""

    def init_control(self, control_gfn: int, offset: int, vcpu: int) -> int:
        """FIFO ABI; returns link_bits."""

    def expand_array(self, array_gfn: int) -> None: ...
    def set_priority(self, port: int, priority: int) -> None: ...


#: One side of a grant copy: whether it is an entry, its number or the frame's, whose it is, and the first byte.
CopySide: TypeAlias = tuple[bool, int, int, int]


class GrantCopyPort(Protocol):
    """An array of grant copies: what one holds, the next finds (xen/common/grant_table.c struct gnttab_copy_buf)."""

    def copy(self, source: CopySide, dest: CopySide, length: int) -> int:
        """One request; its GNTST_*."""

    def release(self) -> None:
        """The array is done."""


class GrantTablePort(Protocol):
    """xen/common/grant_table.c. Methods that Xen answers with a GNTST_* status return it; those it refuses with an
    errno raise XenError.
    """

    def setup_table(self, dom: int, nr_frames: int) -> tuple[int, list[int]]:
        """(GNTST_*, frames of the table)."""

    def set_version(self, version: int) -> int:
        """The version in force afterwards; XenError where Xen refuses."""

    def get_version(self, dom: int) -> int: ...
    def query_size(self, dom: int) -> tuple[int, int, int]:
        """(GNTST_*, nr_frames, max_nr_frames)."""

    def map_grant_ref(self, host_addr: int, flags: int, ref: int, dom: int) -> tuple[int, int, int]:
        """(GNTST_*, handle, dev_bus_addr); the last two mean nothing unless the first is GNTST_okay."""

    def unmap_grant_ref(self, host_addr: int, dev_bus_addr: int, handle: int) -> int: ...
    def unmap_and_replace(self, host_addr: int, new_addr: int, handle: int) -> int: ...
    def transfer(self, gfn: int, dom: int, ref: int) -> int: ...
    def begin_copy(self) -> GrantCopyPort:
        """GNTTABOP_copy: what goes through an array of requests, and is released after them."""

    def get_status_frames(self, dom: int, nr_frames: int) -> tuple[int, list[int]]: ...
    def swap_grant_ref(self, ref_a: int, ref_b: int) -> int: ...
    def cache_flush(self, dev_bus_addr: int, offset: int, length: int, op: int) -> None: ...


class MmPort(Protocol):
    """xen/arch/x86/mm.c and xen/common/memory.c for the calling domain. TLB flushes that an update needs are the
    port's affair: done once, when the hypercall ends.
    """

    # -- mmu_update, update_va_mapping: ``val`` is a whole page-table entry
    def mmu_update(self, ptr: int, val: int, is_io: bool) -> None:
        """One request of HYPERVISOR_mmu_update: the low two bits of ``ptr`` say which (MMU_*). ``is_io``: the caller
        names DOMID_IO as the owner of what it maps, MMIO space, of which the domain has none.
        """

    def update_va_mapping(self, vaddr: int, val: int, flags: int) -> None: ...

    # -- mmuext_op
    def pin_table(self, level: int, mfn: int) -> None: ...
    def unpin_table(self, mfn: int) -> None: ...
    def new_baseptr(self, mfn: int) -> None: ...
    def new_user_baseptr(self, mfn: int) -> None: ...
    def tlb_flush(self) -> None: ...
    def invlpg(self, vaddr: int) -> None: ...
    def set_ldt(self, vaddr: int, ents: int) -> None: ...
    def clear_page(self, mfn: int) -> None: ...
    def copy_page(self, dst_mfn: int, src_mfn: int) -> None: ...

    # -- memory_op: extents of 1 << order frames
    def populate_physmap(self, gpfn: int, order: int, bits: int) -> int:
        """Give the domain new frames at ``gpfn``, at machine addresses of at most ``bits`` bits (0: any); returns the
        first mfn. XenError(ENOMEM) at the limit.
        """

    def increase_reservation(self, order: int, bits: int) -> int: ...
    def decrease_reservation(self, gmfn: int, order: int) -> None: ...
    def exchange_frames(self, in_mfns: Iterable[int], out_order: int, count: int, bits: int) -> list[int]:
        """XENMEM_exchange, a chunk, all or nothing: free ``in_mfns``, give ``count`` new extents; their first mfns."""

    def place_extent(self, mfn: int, gpfn: int, order: int) -> None:
        """An extent's frames have these pfns from now on."""

    def maximum_ram_page(self) -> int: ...
    def current_reservation(self) -> int: ...
    def maximum_reservation(self) -> int: ...
    def maximum_gpfn(self) -> int: ...
    def memory_map(self) -> list[E820Entry]: ...
    def set_memory_map(self, entries: list[E820Entry]) -> None: ...
    def machphys_mfn_list(self) -> list[int]:
        """First mfn of each 2 MiB of the caller's machine-to-physical table."""

    def machphys_compat_mfn_list(self) -> list[int]:
        """The same of the table that 32-bit domains see."""

    def machphys_mapping(self) -> tuple[int, int, int]:
        """(v_start, v_end, max_mfn) of the machine-to-physical table."""


class DescriptorTables(Protocol):
    """xen/arch/x86/pv/descriptor-tables.c."""

    def set_gdt(self, frames: list[int], entries: int) -> None: ...
    def update_descriptor(self, maddr: int, desc: int) -> None: ...


class VcpuPort(Protocol):
    """The calling vcpu (xen/arch/x86/pv/{callback,iret,misc-hypercalls}.c, xen/common/domain.c do_vcpu_op)."""

    @property
    def vcpu_id(self) -> int: ...
    def set_trap_table(self, entries: list[TrapEntry]) -> None:
        """Replace rows; an empty list clears the whole table (as a null pointer does)."""

    def register_callback(self, type: int, flags: int, cs: int, address: int) -> None: ...
    def unregister_callback(self, type: int) -> None: ...
    def stack_switch(self, ss: int, sp: int) -> None: ...
    def fpu_taskswitch(self, set: bool) -> None: ...
    def iret(self) -> None:
        """HYPERVISOR_iret: take the frame on the guest's stack. Never resumes at the caller."""

    def set_segment_base(self, which: int, base: int) -> None: ...
    def set_debugreg(self, reg: int, value: int) -> None: ...
    def get_debugreg(self, reg: int) -> int: ...
    def set_timer(self, timeout: int) -> None:
        """Single shot at ``timeout`` ns of system time; 0 stops it (do_set_timer_op)."""

    def set_singleshot_timer(self, timeout: int, future: bool) -> None: ...
    def stop_singleshot_timer(self) -> None: ...
    def register_nmi_callback(self, address: int) -> None: ...

    def preempt_check(self) -> bool:
        """hypercall_preempt_check: whether a long hypercall should let something else happen first."""

    def create_continuation(self, op: int, *args: int) -> int:
        """hypercall_create_continuation: make this hypercall instead, when that has happened. Its number."""

    # -- vcpu_op on vcpu ``vcpuid`` (XenError(ENOENT) where there is none)
    def exists(self, vcpuid: int) -> bool: ...
    def has_info(self, vcpuid: int) -> bool:
        """Whether it has a vcpu_info (those beyond the 32nd must register one)."""

    def initialise(self, vcpuid: int, context: bytes) -> None: ...
    def up(self, vcpuid: int) -> None: ...
    def down(self, vcpuid: int) -> None: ...
    def is_up(self, vcpuid: int) -> bool: ...
    def runstate(self, vcpuid: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """(state, state_entry_time, times in running, runnable, blocked, offline)."""

    def set_periodic_timer(self, vcpuid: int, period: int) -> None: ...
    def stop_periodic_timer(self, vcpuid: int) -> None: ...
    def register_runstate_area(self, vcpuid: int, vaddr: int) -> None: ...
    def register_vcpu_info(self, vcpuid: int, mfn: int, offset: int) -> None: ...
    def register_time_area(self, vcpuid: int, vaddr: int) -> None: ...
    def send_nmi(self, vcpuid: int) -> None: ...


class DomainPort(Protocol):
    """The calling domain."""

    @property
    def domid(self) -> int: ...
    @property
    def handle(self) -> bytes:
        """The domain's UUID, 16 bytes."""

    def now(self) -> int:
        """System time."""

    def shutdown(self, reason: int) -> None: ...
    def shutdown_code(self, reason: int) -> None: ...
    def vm_assist(self, type: int, enable: bool) -> None: ...
    def has_vm_assist(self, type: int) -> bool: ...
    def watchdog(self, id: int, timeout: int) -> int:
        """``timeout`` in seconds; returns the id (for a new one) or 0."""


class SchedPort(Protocol):
    """xen/common/sched/core.c as far as a guest sees it."""

    def yield_(self) -> None: ...
    def block(self) -> None:
        """Unmask events and sleep until one is pending."""

    def poll(self, ports: Iterable[int], timeout: int) -> None:
        """Sleep until one of ``ports`` is pending or system time is ``timeout`` (0: no limit; negative: past)."""


class PhysdevPort(Protocol):
    """The parts of physdev_op that an unprivileged PV guest has (xen/arch/x86/physdev.c)."""

    def set_iopl(self, iopl: int) -> None: ...
    def set_iobitmap(self, bitmap: int, nr_ports: int) -> None: ...
    def eoi(self, pirq: int) -> None: ...
    def get_free_pirq(self, type: int) -> int:
        """A MAP_PIRQ_TYPE_* interrupt's number, which is the domain's from now on."""

    def set_pirq_eoi_map(self, mfn: int) -> None: ...


class XenoprofPort(Protocol):
    """What of xen/common/xenoprof.c is for every domain."""

    def get_buffer(self, max_samples: int) -> tuple[int, int, int]:
        """(number of buffers, size of each, machine address of the first)."""


class Context(Protocol):
    """One hypercall's view of the hypervisor."""

    @property
    def abi(self) -> Abi: ...
    @property
    def guest(self) -> GuestAccess: ...
    @property
    def domain(self) -> DomainPort: ...
    @property
    def vcpu(self) -> VcpuPort: ...
    @property
    def event_channels(self) -> EventChannelPort: ...
    @property
    def grant_table(self) -> GrantTablePort: ...
    @property
    def mm(self) -> MmPort: ...
    @property
    def descriptor_tables(self) -> DescriptorTables: ...
    @property
    def sched(self) -> SchedPort: ...
    @property
    def physdev(self) -> PhysdevPort: ...
    @property
    def xenoprof(self) -> XenoprofPort: ...

    def call(self, op: int, args: Sequence[int]) -> int:
        """Run another hypercall with the same context (multicall): its result, already ``-errno`` on refusal."""

    def extra_version(self) -> str:
        """The part of Xen's version after major.minor, as XENVER_extraversion gives it (".7")."""
