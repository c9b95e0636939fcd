"""The composition root: puts a domain, its memory, CPU, store and devices together, and runs it.

The only module that knows all the others. One boot in a straight line: ``Machine.create`` builds the domain in libxc's
order; ``run`` enters the guest and serves its exits until it stops or a caller's condition is met.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.context import E820Entry
from hypercalls.public import features as feat
from hypercalls.public import sched as sched_abi
from hypercalls.public import xen
from hypercalls.table import TABLE
from pvemu.builder.build import boot_image, build_image, mem_init, parse_image
from pvemu.builder.hypercall_page import hypercall_page
from pvemu.builder.read_file import read_file
from pvemu.cpu.cpuid import cpuid
from pvemu.cpu.engine import Engine
from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_USER, PF_WRITE, Access, Exit, ExitKind
from pvemu.cpu.paging import PageWalker
from pvemu.cpu.paging_pae import HYPERVISOR_COMPAT_VIRT_START, PaePageWalker
from pvemu.debug.stages import StageWatch
from pvemu.devices.blkback import Blkback
from pvemu.devices.console import ConsoleBackend
from pvemu.devices.dom0 import EventBinder, GrantMapper
from pvemu.devices.xenstore.ring import XenstoreRing
from pvemu.devices.xenstore.server import XenStore
from pvemu.devices.xenstore.toolstack import PvDomain, Vbd, create_domain
from pvemu.disk.image import Disk, open_disks
from pvemu.frames import PAGE_SHIFT, Mfn
from pvemu.hypervisor.compat.page_types import m2p_entries
from pvemu.hypervisor.console_io import ConsoleIo
from pvemu.hypervisor.descriptor_tables import GDT_VADDR
from pvemu.hypervisor.domain import Domain, DomainCrashError
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.emul_priv_op import PrivilegedOps
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.exception_entry import ExceptionEntry
from pvemu.hypervisor.grant_table import GrantTable
from pvemu.hypervisor.hypercall import HypercallContext, HypercallDispatcher
from pvemu.hypervisor.memory import Reservation
from pvemu.hypervisor.msr import Msrs
from pvemu.hypervisor.physdev import Physdev
from pvemu.hypervisor.ro_page_fault import RoPageFault
from pvemu.hypervisor.sched import Sched
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import SYSTEM_TIME_AT_START, VirtualClock
from pvemu.hypervisor.width import PV32, PV64
from pvemu.memory.allocator import FrameAllocator
from pvemu.memory.frame_table import FrameTable, Owner
from pvemu.memory.guest_access import GuestMemory
from pvemu.memory.m2p import CompatMachineToPhys, MachineToPhys
from pvemu.memory.ram import Ram

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.builder.kernel import KernelImage
    from pvemu.config import DomainConfig

__all__ = ["HypercallRecord", "Machine", "Outcome"]

#: First machine frame: far from pfn 0, so that nothing can take one for the other.
_FIRST_MFN = Mfn(0x40000)
_EXTENT = 512
#: Frames of Xen's own beside the machine-to-physical table: shared_info, GDT, entry page, grant frames, and some.
_XEN_HEAP_FRAMES = 256
_STORE_GRANT, _CONSOLE_GRANT = 1, 0  # GNTTAB_RESERVED_XENSTORE, GNTTAB_RESERVED_CONSOLE

_VECTOR_PF = 14
_HYPERCALL_NS = 1_000
_TRAP_NS = 1_000
_FIRST_FILL_NS = 100
_RECENT_HYPERCALLS = 16
_EPOCH_NS = 1_000_000_000

_FEATURES = {
    0: 1 << feat.XENFEAT_memory_op_vnode_supported
    | 1 << feat.XENFEAT_mmu_pt_update_preserve_ad
    | 1 << feat.XENFEAT_gnttab_map_avail_bits
}


class HypercallRecord(NamedTuple):
    """One hypercall as it happened: guest time in ns, rip after it, number, arguments, result."""

    time: int
    rip: int
    op: int
    args: tuple[int, ...]
    result: int


class Outcome(NamedTuple):
    """Why a run ended: ``reason`` is one of shutdown, stuck, hang, or what a caller of ``stop`` said."""

    kind: str
    detail: str


class Machine:
    """One domain and everything around it. Made by :meth:`create`; attributes are there for observers to read."""

    def __init__(self, config: DomainConfig, image: KernelImage, ramdisk: bytes | None, disks: list[Disk]) -> None:
        self.config = config
        self.width = PV64 if image.bits == 64 else PV32
        self.abi = self.width.abi
        self._disks = disks
        self._ramdisk = ramdisk
        self.image = image
        self.outcome: Outcome | None = None
        self.crash_lines: list[str] = []
        self.xen_log: list[str] = []
        self.fault_address: int | None = None  #: of the page fault that crashed the guest
        self.recent: deque[HypercallRecord] = deque(maxlen=_RECENT_HYPERCALLS)
        self.on_console_output: Callable[[bytes], None] = lambda data: None
        self.on_console_poll: Callable[[], None] = lambda: None
        self.clock = VirtualClock(SYSTEM_TIME_AT_START)
        self._fills_charged = 0
        self._calibration_due = SYSTEM_TIME_AT_START + _EPOCH_NS
        self._make_memory()
        self._make_hypervisor()
        self._build_domain()
        self._make_devices()

    @classmethod
    def create(cls, config: DomainConfig) -> Machine:
        """Read the files and build the domain. InputError (one line) for anything that cannot be used."""
        kernel = read_file(config.kernel, "kernel")
        image = parse_image(kernel, config.kernel)
        ramdisk = read_file(config.ramdisk, "ramdisk") if config.ramdisk is not None else None
        disks = open_disks(config.disks, write=config.write)
        try:
            return cls(config, image, ramdisk, disks)
        except BaseException:
            for disk in disks:
                disk.close()
            raise

    def close(self) -> None:
        """Give the disk images back."""
        for disk in self._disks:
            disk.close()

    # -- putting it together -----------------------------------------------------------------------------------------
    def _make_memory(self) -> None:
        nr_pages = self.config.memory_mib << (20 - PAGE_SHIFT)
        domain_frames = -(-nr_pages // _EXTENT) * _EXTENT + _EXTENT
        heap = _XEN_HEAP_FRAMES + MachineToPhys.frames_needed(_FIRST_MFN, 2 * domain_frames)
        if self.width.is_compat:
            heap += CompatMachineToPhys.frames_needed(_FIRST_MFN, 2 * domain_frames)
        heap = -(-heap // _EXTENT) * _EXTENT
        self.nr_pages = nr_pages
        self.ram = Ram(_FIRST_MFN, heap + domain_frames)
        self.frames = FrameTable(_FIRST_MFN, heap + domain_frames)
        self.allocator = FrameAllocator(_FIRST_MFN, heap, domain_frames)
        self.frames.assign(_FIRST_MFN, heap, Owner.XEN)
        m2p_frames = MachineToPhys.frames_needed(_FIRST_MFN, self.ram.nr_frames)
        self.m2p = MachineToPhys(self.ram, self.allocator.alloc_xen(m2p_frames))
        if self.width.is_compat:
            compat_frames = CompatMachineToPhys.frames_needed(_FIRST_MFN, self.ram.nr_frames)
            self.m2p.compat = CompatMachineToPhys(self.ram, self.allocator.alloc_xen(compat_frames))

    def _alloc_shared(self) -> Mfn:
        """share_xen_page_with_guest: a zeroed Xen heap frame that the guest may map writable."""
        mfn = self.allocator.alloc_xen()
        self.frames.share(mfn)
        return mfn

    def _alloc_domain_extent(self, order: int) -> Mfn:
        mfn = self.allocator.alloc_extent(order)
        if mfn is None:
            raise MemoryError("the machine is smaller than its domain")
        self.frames.assign(mfn, 1 << order, Owner.GUEST)
        return mfn

    def _frame_freed(self, mfn: Mfn) -> None:
        self.reservation.frame_freed(mfn)
        self.allocator.free(mfn)

    def _make_hypervisor(self) -> None:
        domid, width = self.config.domid, self.width
        self.engine = Engine(self.ram, self, self.allocator.alloc_xen(), GDT_VADDR)
        self.walker = self._make_walker()
        self.guest = GuestMemory(self.ram, self.walker)
        xen_entries = m2p_entries(self.m2p.compat.superpages()) if self.m2p.compat is not None else {}
        self.types = width.page_types(self.ram, self.frames, xen_entries)
        self.reservation = Reservation(
            self.ram, self.frames, self.m2p, self.nr_pages, self.allocator.alloc_extent
        )
        self.frames.on_free = self._frame_freed
        self.reservation.set_memory_map([E820Entry(0, self.nr_pages << PAGE_SHIFT, 1)])
        self.mm = width.mm(self.ram, self.frames, self.types, self.m2p, self.walker, self.reservation)
        self.shared_info_mfn = self._alloc_shared()
        self.shared_info = SharedInfo(self.abi, self.ram.frame(self.shared_info_mfn))
        infos = [self.shared_info.vcpu_info(0)]
        self.event_channels = EventChannels(
            domid, self.shared_info, infos, DomainPages(self.ram, self.types), self.xen_log.append
        )
        self.domain = Domain(domid, self.clock, self.engine.stop)
        if self.image.pae_extended_cr3:
            self.domain.assists.add(xen.VMASST_TYPE_pae_extended_cr3)
        self.vcpu = width.vcpu(
            self.abi, 0, self.engine, infos[0], self.clock, self.guest, self.ram, self.types, self.event_channels,
            infos, self.engine.stop, self.engine.enter_from_ring0 if width.is_compat else self.engine.enter,
            self._toggle_guest_mode,
        )  # fmt: skip
        self.grants = GrantTable(
            domid, self.ram, self.frames, self.types, self.mm, self.reservation, self._alloc_shared
        )
        self.descriptor_tables = width.descriptor_tables(
            self.ram, self.frames, self.types, self.mm, self.allocator.alloc_xen(), self.walker.flush
        )
        if width.is_compat:
            self.vcpu.segment_base = self.descriptor_tables.segment_base
        self.sched = Sched(self.clock, self.vcpu, self.event_channels, self._is_stopping, self._stuck)
        self.vcpu.has_architectural_iopl = lambda: xen.VMASST_TYPE_architectural_iopl in self.domain.assists
        self.vcpu.on_last_down = lambda: self.domain.shutdown(sched_abi.SHUTDOWN_poweroff)
        self.reservation.guest_max_pfn = lambda: self.shared_info.max_pfn
        self.traps = width.traps(self.domain, self.vcpu, self.guest)
        physdev = Physdev(self.vcpu, self.types)
        self._make_exceptions(physdev)
        context = HypercallContext(
            abi=self.abi, guest=self.guest, domain=self.domain, vcpu=self.vcpu, event_channels=self.event_channels,
            grant_table=self.grants, mm=self.mm, descriptor_tables=self.descriptor_tables, sched=self.sched,
            console=ConsoleIo(self._log_console_io), physdev=physdev, features=_FEATURES,
        )  # fmt: skip
        self.hypercalls = HypercallDispatcher(TABLE, context)
        self.stages = StageWatch(
            self.abi, self.ram, self.walker, self.guest, self.engine.reader("rip", "rsi"),
            lambda: self.clock.now() - self.clock.start,
        )  # fmt: skip
        self.mm.on_new_baseptr = self.stages.arm
        self._read_call = self.engine.reader("rax", *self.abi.arg_registers, "rip", "rflags")
        self._read_place = self.engine.reader("rip", "rsp")
        self._read_cs = self.engine.reader("cs")
        self._write_rax = self.engine.writer("rax")
        self._write_rcx = self.engine.writer("rcx")
        self._write_r11 = self.engine.writer("r11")

    def _make_walker(self) -> PageWalker:
        def drop_code(mfn: int) -> None:
            self.ram.on_code_write(Mfn(mfn))

        compat = self.m2p.compat
        if compat is None:
            return PageWalker(self.ram, self.engine.flush_tlb, drop_code, self.engine.flush_page)
        walker = PaePageWalker(self.ram, self.engine.flush_tlb, drop_code, self.engine.flush_page)
        walker.is_user = lambda: self._read_cs()[0] & 3 == 3
        walker.xen_page = lambda vaddr: compat.page_at(vaddr - HYPERVISOR_COMPAT_VIRT_START)
        return walker

    def _make_exceptions(self, physdev: Physdev) -> None:
        is_compat = self.width.is_compat
        msrs = Msrs(self.vcpu, self.clock, self.ram, self.types, hypercall_page(self.abi.bits), is_compat)
        self.privileged = PrivilegedOps(
            self.domain, self.vcpu, self.guest, self.mm, self.clock, physdev, msrs, has_rex=not is_compat
        )  # fmt: skip
        self._copied_page: tuple[int, int] | None = None
        ro_page_fault = RoPageFault(
            self.vcpu, self.ram, self.frames, self.mm, self.allocator.alloc_xen(), self._run_on_copy, is_compat
        )  # fmt: skip
        self.exceptions = ExceptionEntry(
            self.domain, self.vcpu, self.guest, self.traps, self.privileged, ro_page_fault,
            lambda: self.descriptor_tables.ldt_vaddr, self.on_cpuid,
        )  # fmt: skip

    def _run_on_copy(self, page: int, maddr: int) -> Exit:
        self._copied_page = page, maddr
        self.engine.flush_page(page)
        try:
            return self.engine.run()
        finally:
            self._copied_page = None
            self.engine.flush_page(page)

    def _build_domain(self) -> None:
        p2m = mem_init(self._alloc_domain_extent, self.nr_pages)
        self.built = built = build_image(self.image, self.ram, p2m, self._ramdisk, self.config.cmdline)
        for pfn in range(0, self.nr_pages, _EXTENT):
            count = min(_EXTENT, self.nr_pages - pfn)
            if p2m[pfn + count - 1] - p2m[pfn] == count - 1:
                self.m2p.set_range(p2m[pfn], pfn, count)
            else:
                for i in range(pfn, pfn + count):
                    self.m2p.set(p2m[i], i)
        self.mm.pin_table(self.width.root_level, built.pt_root_mfn)
        self.mm.new_baseptr(built.pt_root_mfn)
        self.stages.is_armed = False
        self.store_port = self.event_channels.alloc_for_backend()
        self.console_port = self.event_channels.alloc_for_backend()
        boot_image(built, self.ram, self.shared_info_mfn, self.store_port, self.console_port, 0)
        self.grants.seed(_CONSOLE_GRANT, built.console_mfn, 0)
        self.grants.seed(_STORE_GRANT, built.store_mfn, 0)
        for ref in (_CONSOLE_GRANT, _STORE_GRANT):  # xenconsoled and xenstored map their rings before the guest runs
            self.grants.map_for_backend(ref, readonly=False)
        self.shared_info.set_wallclock(2, self.config.epoch - SYSTEM_TIME_AT_START // 1_000_000_000, 0)
        self.vcpu.update_time()
        self.stages.first_stage(self.image, self.config.cmdline, self._ramdisk)

    def _make_devices(self) -> None:
        built, config = self.built, self.config
        vbds = tuple(
            Vbd(
                disk.number, disk.vdev, f"/dev/loop{i}", "r" if disk.read_only else "w", disk.cdrom, f"7:{i:x}"
            )
            for i, disk in enumerate(config.disks)
        )  # fmt: skip
        kib = config.memory_mib << 10
        self.toolstack_domain = domain = PvDomain(
            name=config.name, kernel=config.kernel, domid=config.domid, ramdisk=config.ramdisk,
            cmdline=config.cmdline or None, static_max=kib, target=kib, disks=vbds, store_port=self.store_port,
            store_ring_ref=built.store_mfn, console_port=self.console_port, console_ring_ref=built.console_mfn,
            uuid=str(self.domain.uuid), protocol=self.width.protocol,
        )  # fmt: skip
        self.xenstore = XenStore()
        connection = create_domain(self.xenstore, domain)
        self.store_ring = XenstoreRing(
            self.ram.frame(built.store_mfn), connection, self._notify_store, self.xenstore
        )
        self._store_channel = self.event_channels.bind_backend(self.store_port, self.store_ring.kick)
        self.console = ConsoleBackend(self.ram.frame(built.console_mfn), self._console_output, self._console_polled)
        channel = self.event_channels.bind_backend(self.console_port, self.console.kick)
        self.console.notify = channel.notify
        self._console_maddr = built.console_mfn << PAGE_SHIFT
        self._console_window = self.ram.base + self.ram.size
        self.engine.trap_frame(self._console_window, self.console.guest_read, self.console.guest_write)
        grants, events = GrantMapper(self.ram, self.grants), EventBinder(self.event_channels)
        dom0 = self.xenstore.client()
        self.backends: dict[str, Blkback] = {}
        for i, (disk, vbd) in enumerate(zip(self._disks, vbds, strict=True)):
            self.backends[vbd.name] = backend = Blkback(
                vdev=vbd.name, disk=disk, nodename=f"/local/domain/0/backend/vbd/{domain.domid}/{vbd.vdev}",
                otherend=f"{domain.home}/device/vbd/{vbd.vdev}", store=dom0, grants=grants, events=events,
                clock=self.clock, charge=self._disk_worked, log=self.xen_log.append, read_only=vbd.mode == "r",
                cdrom=vbd.is_cdrom, loop=i,
            )  # fmt: skip
            backend.probe()

    # -- running -----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Stand at the kernel's entry with the registers of the start of day."""
        registers = dict(self.built.registers)
        ds, _es, _fs, _gs = (registers.pop(name) for name in ("ds", "es", "fs", "gs"))  # all the same
        rip, rsp, cs, ss, rflags = (registers.pop(name) for name in ("rip", "rsp", "cs", "ss", "rflags"))
        for name, value in registers.items():
            self.engine.write(name, value)
        if self.width.is_compat:
            self.vcpu.kernel_sp = rsp
            self.engine.enter_from_ring0(rip, rsp, cs, ss, rflags, ds)
        else:
            self.engine.enter(rip, rsp, cs, ss, rflags)

    def run(self) -> Outcome:
        """Run until the domain stops or ``stop`` is called; callable again after a ``stop``."""
        self.outcome = None
        while self.outcome is None and self.domain.shutdown_reason is None:
            try:
                self._step()
            except DomainCrashError as crash:
                self.crash_lines = crash.lines
                self.domain.shutdown(sched_abi.SHUTDOWN_crash)
        if self.outcome is None:
            self.outcome = Outcome("shutdown", "")
        return self.outcome

    def _step(self) -> None:
        vcpu = self.vcpu
        if vcpu.resume is not None:
            action, vcpu.resume = vcpu.resume, None
            action()
        if vcpu.refused_frame is not None:
            (refusal, cs, ss), vcpu.refused_frame = vcpu.refused_frame, None
            self.exceptions.refused_frame(refusal, cs, ss)
            return
        self.traps.deliver_events()
        leaving = self.engine.run()
        if leaving.kind == ExitKind.EXCEPTION:
            self.clock.charge(_TRAP_NS)
            self._on_exception(leaving)
            self.clock.run_due()
        elif leaving.kind == ExitKind.WEDGED:
            self._on_wedged()

    def _on_wedged(self) -> None:
        """The watchdog saw no exit for long. A loop that nothing inside it can end waits for an event: the next one
        comes at once, always at the loop's lowest address, so that runs repeat. Without one it is a hang.
        """
        loop = self.engine.find_loop()
        if not loop:
            return  # it computes: let it
        info = self.vcpu.info
        if not info.upcall_mask and self.clock.next_due is not None:
            self.engine.step_to(min(loop), len(loop))
            self.clock.skip_to_next()
            return
        where = f"{min(loop):#x}" if len(loop) == 1 else f"{min(loop):#x}..{max(loop):#x}"
        self.outcome = Outcome(
            "hang", f"the guest hangs: it repeats {len(loop)} instruction{'s'[: len(loop) > 1]} at {where} for ever"
        )

    def _on_exception(self, leaving: Exit) -> None:
        self.fault_address = leaving.address if leaving.vector == _VECTOR_PF else None
        self.exceptions.handle(leaving)

    def stop(self, kind: str, detail: str = "") -> None:
        """End the run from a callback; the domain lives on."""
        if self.outcome is None:
            self.outcome = Outcome(kind, detail)
        self.engine.stop()

    def disk_statistics(self) -> dict[str, dict[str, int]]:
        """By vdev: read and write requests, and 512-byte sectors moved."""
        return {
            vdev: {
                "reads": backend.statistics.reads,
                "writes": backend.statistics.writes,
                "sectors": backend.statistics.sectors,
            }
            for vdev, backend in self.backends.items()
        }

    def hypercall_nargs(self, op: int) -> int:
        """How many arguments hypercall ``op`` has; all of them for an unknown one."""
        row = TABLE.get(op)
        return row.nargs_of(self.abi.bits) if row is not None else len(self.abi.arg_registers)

    @property
    def is_stopping(self) -> bool:
        """Whether the run is about to end."""
        return self._is_stopping()

    def _is_stopping(self) -> bool:
        return self.outcome is not None or self.domain.shutdown_reason is not None

    def _stuck(self) -> None:
        self.stop("stuck", "the guest sleeps and nothing will ever wake it")

    def _toggle_guest_mode(self) -> bool:
        """toggle_guest_mode of xen/arch/x86/pv/domain.c: swap GS base and root table with the other mode's."""
        vcpu, mm = self.vcpu, self.mm
        if vcpu.kernel_mode and not mm.guest_root_user:
            return False
        gs_base = self.engine.read("gs_base")
        if vcpu.kernel_mode:
            vcpu.gs_base_kernel = gs_base
            self.engine.write("gs_base", vcpu.gs_base_user)
            self.walker.load_root(mm.guest_root_user << PAGE_SHIFT)
        else:
            vcpu.gs_base_user = gs_base
            self.engine.write("gs_base", vcpu.gs_base_kernel)
            self.walker.load_root(mm.guest_root << PAGE_SHIFT)
        vcpu.kernel_mode = not vcpu.kernel_mode
        return True

    # -- exits (pvemu.cpu.exits.ExitHandler) -------------------------------------------------------------------------
    def on_syscall(self) -> None:
        """A hypercall, or a system call of user mode."""
        vcpu = self.vcpu
        if self.width.is_compat or not vcpu.kernel_mode:
            vcpu.leave_for(self.traps.inject_syscall)
            return
        op, *args, rip, rflags = self._read_call()
        clock = self.clock
        self._charge_fills()
        clock.charge(_HYPERCALL_NS)
        op &= 0xFFFF_FFFF
        result = self.hypercalls.call(op, args)
        self.recent.append(HypercallRecord(clock.time, rip, op, tuple(args), result))
        self._write_rax(result & 0xFFFF_FFFF_FFFF_FFFF)
        self._write_rcx(rip + 2)
        self._write_r11(rflags)
        self._after_exit()

    def on_int82(self) -> bool:
        """A hypercall of a 32-bit guest's; its gate is for ring 1."""
        if not self.width.is_compat or not self.vcpu.kernel_mode:
            return False
        op, *args, rip, _rflags = self._read_call()
        clock = self.clock
        self._charge_fills()
        clock.charge(_HYPERCALL_NS)
        result = self.hypercalls.call(op, args)
        self.recent.append(HypercallRecord(clock.time, rip, op, tuple(args), result))
        self._write_rax(result & 0xFFFF_FFFF)
        self._after_exit()
        return True

    def _charge_fills(self) -> None:
        fills = self.walker.first_fills
        if fills != self._fills_charged:
            self.clock.pass_time((fills - self._fills_charged) * _FIRST_FILL_NS)
            self.clock.progress()
            self._fills_charged = fills

    def _after_exit(self) -> None:
        clock = self.clock
        clock.run_due()
        if clock.time >= self._calibration_due:
            self._calibrate()
        info = self.vcpu.info
        if info.upcall_pending and not info.upcall_mask:
            self.engine.stop()

    def _calibrate(self) -> None:
        """local_time_calibration of xen/arch/x86/time.c: vcpu_time_info is as old as an EPOCH, not older."""
        self._calibration_due = self.clock.time - self.clock.time % _EPOCH_NS + _EPOCH_NS
        self.vcpu.update_time()

    def on_rdtsc(self) -> int:
        """RDTSC: the virtual clock."""
        self._charge_fills()
        rip, rsp = self._read_place()
        value = self.clock.poll(rip << 64 | rsp)
        self._after_exit()
        return value

    def on_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID, as with CPUID faulting."""
        return cpuid(leaf, subleaf, self.config.domid, self.abi.bits)

    def on_port_read(self, port: int, size: int) -> int | None:
        """IN and INS, as IOPL and the I/O bitmap allow."""
        self.clock.charge(_TRAP_NS)
        return self.privileged.port_read(port, size)

    def on_port_write(self, port: int, size: int, value: int) -> bool:
        """OUT and OUTS."""
        self.clock.charge(_TRAP_NS)
        return self.privileged.port_write(port, size, value)

    def on_tlb_miss(self, vaddr: int, access: int) -> tuple[int, int] | None:
        """One page of the guest's address space, or of the part that Xen shows it."""
        if 0xFFFF_8000_0000_0000 <= vaddr < 0xFFFF_8800_0000_0000:
            return self._xen_area(vaddr, access)
        if self._copied_page is not None and vaddr == self._copied_page[0]:
            return self._copied_page[1], 3
        found = self.walker.translate(vaddr, access)
        if found is not None and found[0] == self._console_maddr:
            return self._console_window, found[1] & 3
        if access == Access.FETCH and self.stages.is_armed and self._is_kernel_start(vaddr):
            self.walker.flush()
            self.engine.drop_all_code()
            return self.walker.translate(vaddr, access)
        return found

    def _is_kernel_start(self, vaddr: int) -> bool:
        self.engine.is_in_handler = True  # it may have gigabytes to search
        try:
            return self.stages.check_fetch(vaddr)
        finally:
            self.engine.is_in_handler = False

    def _xen_area(self, vaddr: int, access: int) -> tuple[int, int] | None:
        maddr = None
        if vaddr < 0xFFFF_8080_0000_0000:
            maddr = self.m2p.page_at(vaddr - 0xFFFF_8000_0000_0000)
        elif vaddr >= GDT_VADDR and access == Access.READ:
            maddr = self.descriptor_tables.page_at(vaddr, access)
        if maddr is None or access != Access.READ:
            code = {Access.WRITE: PF_USER | PF_WRITE, Access.FETCH: PF_USER | PF_INSTR}.get(Access(access), PF_USER)
            self.walker.error_code = code if maddr is None else code | PF_PRESENT
            return None
        return maddr, 1

    def fault_error_code(self) -> int:
        """Error code of the refused access."""
        return self.walker.error_code

    # -- devices' callbacks ------------------------------------------------------------------------------------------
    def _notify_store(self) -> None:
        self._store_channel.notify()

    def _disk_worked(self, ns: int) -> None:
        self.clock.progress()
        self.clock.charge(ns)

    def _console_output(self, data: bytes) -> None:
        self.clock.progress()
        self.clock.charge(len(data) * 100)
        self.on_console_output(data)

    def _console_polled(self) -> None:
        self.clock.poll()
        self.on_console_poll()
        self._after_exit()

    def _log_console_io(self, data: bytes) -> None:
        self.xen_log.append(data.decode("utf-8", "replace"))
