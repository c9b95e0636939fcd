"""The composition root: puts a domain, its memory, CPU, store and devices together, and runs it.

The only module that knows all the others. One boot in a straight line: ``Machine.create`` builds the domain in libxc's
order; ``run`` enters the guest and serves its exits until it stops or a caller's condition is met.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hypercalls.context import E820Entry
from hypercalls.public import sched as sched_abi
from hypercalls.public import xen
from hypercalls.table import TABLE
from pvemu.builder.build import boot_image, build_image, mem_init, parse_image
from pvemu.builder.hypercall_page import hypercall_page
from pvemu.builder.read_file import read_file
from pvemu.cpu.cpuid import CpuPolicy
from pvemu.cpu.paging import PageWalker
from pvemu.cpu.paging_pae import PaePageWalker
from pvemu.cpu.unicorn.engine import Engine
from pvemu.debug.stages import StageWatch
from pvemu.devices.dom0 import CONSOLE_GRANT, STORE_GRANT, Dom0, Dom0Parts
from pvemu.disk.image import Disk, open_disks
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE, Mfn
from pvemu.hypervisor.address_space import AddressSpace
from pvemu.hypervisor.compat.page_types import m2p_entries
from pvemu.hypervisor.descriptor_tables import GDT_VADDR
from pvemu.hypervisor.domain import Domain
from pvemu.hypervisor.domain_page import DomainPages
from pvemu.hypervisor.event_channel import EventChannels
from pvemu.hypervisor.grant_table import GrantTable
from pvemu.hypervisor.guest_access import GuestMemory
from pvemu.hypervisor.guest_mode import toggle_guest_mode
from pvemu.hypervisor.hypercall import HypercallContext, HypercallDispatcher
from pvemu.hypervisor.memory import Reservation
from pvemu.hypervisor.page_types import xen_l4_entries
from pvemu.hypervisor.physdev import Physdev
from pvemu.hypervisor.run_loop import Outcome, RunLoop
from pvemu.hypervisor.sched import Sched
from pvemu.hypervisor.sched.context_switch import ContextSwitch
from pvemu.hypervisor.sched.round_robin import RoundRobin
from pvemu.hypervisor.shared_info import SharedInfo
from pvemu.hypervisor.time import SYSTEM_TIME_AT_START, VirtualClock
from pvemu.hypervisor.traps.breakpoints import Breakpoints
from pvemu.hypervisor.traps.emul_gate_op import GateOps
from pvemu.hypervisor.traps.emul_priv_op import PrivilegedOps
from pvemu.hypervisor.traps.emulate import CodeReader
from pvemu.hypervisor.traps.exception_entry import ExceptionEntry
from pvemu.hypervisor.traps.exit_handler import HypercallRecord, PvExitHandler
from pvemu.hypervisor.traps.far_branch import FarBranches
from pvemu.hypervisor.traps.msr import Msrs
from pvemu.hypervisor.traps.ro_page_fault import RoPageFault
from pvemu.hypervisor.tsc import Tsc
from pvemu.hypervisor.vcpu.guest_context import GuestContexts
from pvemu.hypervisor.width import PV32, PV64
from pvemu.hypervisor.xenoprof import Xenoprof
from pvemu.memory.machine_memory import MachineMemory
from pvemu.observers import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.builder.kernel import KernelImage
    from pvemu.config import DomainConfig
    from pvemu.cpu.exits import Exit
    from pvemu.hypervisor.shared_info import VcpuInfo
    from pvemu.hypervisor.vcpu import Vcpu
    from pvemu.strict.machine import StrictMachine

__all__ = ["HypercallRecord", "Machine", "Outcome"]

#: LIBXL_MAXMEM_CONSTANT, in pages: what a domain may have beyond its memory, until xl mem-set says otherwise.
_MAXMEM_CONSTANT = 256


class Machine(RunLoop):
    """One domain and everything around it. Made by :meth:`create`; attributes are there for observers to read."""

    engine: Engine
    vcpus: list[Vcpu]

    def __init__(
        self, config: DomainConfig, image: KernelImage, ramdisk: bytes | None, disks: list[Disk],
        time: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.width = PV64 if image.bits == 64 else PV32
        self.abi = self.width.abi
        self._disks = disks
        self.disks = {disk.vdev: source for disk, source in zip(config.disks, disks, strict=True)}  #: by vdev
        self._ramdisk = ramdisk
        self.image = image
        self.xen_log: list[str] = []  #: what Xen's own console shows
        self.dom0_log: list[str] = []
        self._serving: list[Callable[[Vcpu], None]] = []  # told which vcpu runs
        self._console_observers: list[Callable[[bytes], None]] = []
        self.on_console_output: Callable[[bytes], None] = lambda data: None
        self.on_console_poll: Callable[[], None] = lambda: None
        self.clock = VirtualClock(SYSTEM_TIME_AT_START, time)
        self.tsc = Tsc(self.clock, config.tsc_mode)
        self.clock.tsc_at = self.tsc.at
        self._strict: StrictMachine | None = None
        if config.strict is not None:
            from pvemu.strict.machine import StrictMachine

            self._strict = StrictMachine(config.strict, config.domid, self.clock)
        self._make_memory()
        self._make_mm()
        self._make_domain()
        self._make_entries()
        self._build_domain()
        self._make_dom0()

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

    def reboot(self, domid: int | None = None) -> Machine:
        """What xl does when the domain has shut down to reboot: a new domain, with the next number (or ``domid``), of
        the same configuration. The disks are as they were left, and time goes on. This machine is at its end.
        """
        disks, self._disks = self._disks, []
        config = replace(self.config, domid=self.config.domid + 1 if domid is None else domid)
        return Machine(config, self.image, self._ramdisk, disks, self.clock.now())

    def close(self) -> None:
        """Give the disk images back."""
        for disk in self._disks:
            disk.close()

    # -- putting it together -----------------------------------------------------------------------------------------
    def _make_memory(self) -> None:
        self.nr_pages = self.config.memory_mib << (20 - PAGE_SHIFT)
        self.memory = memory = MachineMemory(self.nr_pages, self.width.is_compat)
        self.ram, self.frames, self.m2p = memory.ram, memory.frames, memory.m2p
        self._window = self.ram.base + self.ram.size  # machine addresses that are not RAM: pages served by callbacks
        self.engine = Engine(self.ram, memory.alloc_xen(), GDT_VADDR)
        self.shared_info_mfn = memory.alloc_shared()
        self.walker: PageWalker = (PageWalker if self.m2p.compat is None else PaePageWalker)(
            self.ram, self.engine.flush_tlb, lambda mfn: self.ram.on_code_write(Mfn(mfn)), self.engine.flush_page
        )
        if isinstance(self.walker, PaePageWalker) and self.m2p.compat is not None:
            self.walker.attach(self.engine.reader("cs"), self.m2p.compat.shown_at)
        self.guest = GuestMemory(self.ram, self.walker)

    def _make_mm(self) -> None:
        memory, width = self.memory, self.width
        if self.m2p.compat is not None:
            xen_entries = m2p_entries(self.m2p.compat.superpages())
        else:
            xen_entries = xen_l4_entries(memory.alloc_xen())
        self.types = width.page_types(self.ram, self.frames, xen_entries)
        self.reservation = Reservation(
            self.ram, self.frames, self.m2p, self.nr_pages + _MAXMEM_CONSTANT, memory.allocator.alloc_extent
        )

        def frame_freed(mfn: Mfn) -> None:
            self.reservation.frame_freed(mfn)
            memory.allocator.free(mfn)

        self.frames.on_free = frame_freed
        most = max(self.config.maxmem_mib, self.config.memory_mib)
        self.reservation.set_memory_map([E820Entry(0, most << 20, 1)])
        self.reservation.guest_max_pfn = lambda: self.shared_info.max_pfn
        self.mm = width.mm(self.ram, self.frames, self.types, self.m2p, self.walker, self.reservation)
        self.grants = GrantTable(
            self.config.domid, self.ram, self.frames, self.types, self.mm, self.reservation, memory.alloc_shared,
            self.config.grants,
        )  # fmt: skip
        self.descriptor_tables = width.descriptor_tables(
            self.ram, self.frames, self.types, self.mm, memory.alloc_xen(), self.walker.flush
        )
        self.address_space = AddressSpace(self.walker, self.m2p, self.descriptor_tables, self.engine.flush_page)
        if not width.is_compat:  # Xen's part is above what a 32-bit guest can name
            self.address_space.shows_m2p = lambda: self.types.shows_m2p(self.walker.root_maddr >> PAGE_SHIFT)
            self.address_space.is_guest_access = lambda: not self.engine.is_loading_descriptors
            self.engine.may_try_again = self.address_space.is_descriptor_load
        self.descriptor_tables.alloc_zero_page = memory.alloc_xen
        self.descriptor_tables.load_ldt = self.engine.load_ldt
        self.address_space.drop_all_code = self.engine.drop_all_code

    def _make_domain(self) -> None:
        domid, engine = self.config.domid, self.engine
        self.shared_info = SharedInfo(self.abi, self.ram.frame(self.shared_info_mfn))
        infos = self.shared_info.vcpu_infos(self.config.nr_vcpus)
        pages = DomainPages(self.ram, self.types)
        self.event_channels = EventChannels(domid, self.shared_info, infos, pages, self.xen_log.append)
        self.domain = Domain(domid, self.clock, engine.stop)
        self.domain.log = self.xen_log.append
        if self.image.pae_extended_cr3:
            self.domain.assists.add(xen.VMASST_TYPE_pae_extended_cr3)
        self.vcpus = [self._make_vcpu(i, pages, infos) for i in range(self.config.nr_vcpus)]
        self.types.is_m2p_strict = lambda: xen.VMASST_TYPE_m2p_strict in self.domain.assists
        self.vcpu = self.vcpus[0]  #: the one that runs
        if len(self.vcpus) == 1:
            self.sched = Sched(self.clock, self.vcpu, self.event_channels, lambda: self.is_stopping, self._stuck)
        else:
            self.sched = self._make_scheduler()
        self.stages = StageWatch(
            self.abi, self.ram, self.walker, self.guest, engine.reader("rip", "rsi"),
            lambda: self.clock.now() - self.clock.start, domid,
        )  # fmt: skip

    def _make_vcpu(self, vcpu_id: int, pages: DomainPages, infos: list[VcpuInfo]) -> Vcpu:
        engine, is_compat = self.engine, self.width.is_compat
        vcpu = self.width.vcpu(
            self.abi, vcpu_id, engine, self.clock, self.guest, pages, self.event_channels, infos, engine.stop,
            engine.enter_from_ring0 if is_compat else engine.enter,
            lambda: toggle_guest_mode(vcpu, self.mm, self.walker),
        )  # fmt: skip
        if is_compat:
            vcpu.segment_base = self.descriptor_tables.segment_base
        vcpu.has_architectural_iopl = lambda: xen.VMASST_TYPE_architectural_iopl in self.domain.assists
        vcpu.on_last_down = lambda: self.domain.shutdown(sched_abi.SHUTDOWN_poweroff)
        return vcpu

    def _make_scheduler(self) -> RoundRobin:
        """Several vcpus take turns; a PAUSE is an exit then."""
        engine, vcpus = self.engine, self.vcpus
        contexts = GuestContexts(
            self.abi, self.types, engine.registers.load_fxsave, engine.enter_from_ring0,
            self.descriptor_tables.reload_ldt,
        )  # fmt: skip
        for vcpu in vcpus:
            vcpu.set_info_guest = partial(contexts.set, vcpu)
        switch = ContextSwitch(engine.contexts, self.mm, self.descriptor_tables, vcpus, self._serving)
        return RoundRobin(
            self.clock, vcpus, self.event_channels, lambda: self.is_stopping, self._stuck, engine.leave, switch
        )

    def _set_current(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu

    def _make_entries(self) -> None:
        """The ways from guest code into Xen: hypercalls, exceptions, and the exits that go on at once."""
        is_compat, memory = self.width.is_compat, self.memory
        self.traps = self.width.traps(self.domain, self.vcpu, self.guest)
        physdev = Physdev(self.vcpu, self.types)
        tables = self.descriptor_tables
        code = CodeReader(self.engine, self.guest, tables.read_descriptor, is_compat)
        self.address_space.touches = code.touches
        self.traps.is_long_code = lambda: code.bits() == 64
        msrs = Msrs(self.vcpu, self.tsc, self.ram, self.types, hypercall_page(self.abi.bits), is_compat)
        self.privileged = PrivilegedOps(
            self.domain, self.vcpu, self.guest, self.mm, self.tsc, physdev, msrs, code
        )  # fmt: skip
        context = HypercallContext(
            abi=self.abi, guest=self.guest, domain=self.domain, vcpu=self.vcpu, event_channels=self.event_channels,
            grant_table=self.grants, mm=self.mm, descriptor_tables=self.descriptor_tables, sched=self.sched,
            physdev=physdev, xenoprof=Xenoprof(memory, self.abi.bits, self.config.vcpus),
        )  # fmt: skip
        self.hypercalls = HypercallDispatcher(TABLE, context)
        policy = CpuPolicy(
            self.abi.bits, self.tsc.leaf, self.reservation.maximum_ram_page(),
            has_itsc=self.tsc.vtsc or not self.config.may_migrate,
        )  # fmt: skip
        self.exit_handler = PvExitHandler(
            self.abi, policy, self.tsc, msrs, self.engine, self.clock, self.vcpu, self.walker, self.hypercalls,
            self.traps, self.privileged,
        )  # fmt: skip
        self.recent = self.exit_handler.recent
        self.engine.attach(self.exit_handler, self.address_space)

        def run_on_copy(page: int, maddr: int) -> Exit:
            return self.address_space.run_on_copy(page, maddr, self.engine.run_inner)

        ro_page_fault = RoPageFault(
            self.vcpu, code, self.ram, self.frames, self.mm, memory.alloc_xen(), run_on_copy, is_compat
        )  # fmt: skip
        self.breakpoints = Breakpoints(
            self.vcpu, code, self.guest, self.ram, self.address_space, self._window + PAGE_SIZE,
            self.engine.trap_frame, self.engine.run_inner,
        )  # fmt: skip
        gates = GateOps(self.vcpu, self.guest, code, tables) if is_compat else None
        far_branches = FarBranches(self.vcpu, self.guest, code, tables.read_descriptor)
        self.exceptions = ExceptionEntry(
            self.domain, self.vcpu, self.guest, self.traps, self.privileged, ro_page_fault, self.breakpoints, code,
            lambda: self.descriptor_tables.ldt_vaddr, self.exit_handler.on_cpuid, gates, far_branches,
        )  # fmt: skip
        if isinstance(self.sched, RoundRobin):
            self._serving += [
                room.set_current for room in (
                    self.traps, physdev, msrs, self.privileged, self.exit_handler, ro_page_fault, self.breakpoints,
                    self.exceptions, far_branches, self.sched, *([gates] if gates is not None else []),
                )
            ]  # fmt: skip
            self._serving += [self.hypercalls.set_current, self.grants.set_current, self._set_current]
            self.exit_handler.on_spin = self.sched.spin
            self.engine.exit_on_pause()

    def _build_domain(self) -> None:
        p2m = mem_init(self.memory.alloc_extent, self.nr_pages)
        if self._strict is not None:
            self._strict.populated(p2m)
        self.built = built = build_image(self.image, self.ram, p2m, self._ramdisk, self.config.cmdline)
        self.memory.publish_p2m(p2m)
        self.mm.pin_table(self.width.root_level, built.pt_root_mfn)
        self.mm.new_baseptr(built.pt_root_mfn)
        self.mm.on_new_baseptr = self._new_baseptr
        self.store_port = self.event_channels.alloc_for_backend()
        self.console_port = self.event_channels.alloc_for_backend()
        boot_image(built, self.ram, self.shared_info_mfn, self.store_port, self.console_port, 0)
        if self._strict is not None:
            self._strict.built(built, self.memory, self.reservation)
            self._strict.entered(self.abi, self.engine, self.hypercalls, self.vcpus, self.sched)
        self.grants.seed(CONSOLE_GRANT, built.console_mfn, 0)
        self.grants.seed(STORE_GRANT, built.store_mfn, 0)
        self.shared_info.set_wallclock(2, self.config.epoch - SYSTEM_TIME_AT_START // 1_000_000_000, 0)
        self.vcpu.update_time()
        self.stages.first_stage(self.image, self.config.cmdline, self._ramdisk, self.config.ramdisk)

    def _make_dom0(self) -> None:
        built = self.built
        self.dom0 = Dom0(
            self.config, self.domain.uuid, self.width.protocol, self._disks, self.ram, self.grants,
            self.event_channels, self.clock, (built.store_mfn, self.store_port),
            (built.console_mfn, self.console_port), self._console_output, self._console_polled, self._disk_worked,
            self.dom0_log.append, Dom0Parts() if self._strict is None else self._strict.dom0_parts,
        )  # fmt: skip
        self.xenstore, self.console, self.backends = self.dom0.xenstore, self.dom0.console, self.dom0.backends
        self.disk_statistics = self.dom0.disk_statistics
        self.engine.trap_frame(self._window, self.console.guest_read, self.console.guest_write)
        self.address_space.trap_frame(built.console_mfn, self._window)

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
            self.engine.enter_from_ring0(rip, rsp, cs, ss, rflags, (ds, ds, ds, ds))
        else:
            self.engine.enter(rip, rsp, cs, ss, rflags)

    def _ended(self) -> None:
        if self._strict is not None:
            self._strict.stopped(self.console)

    def resume(self) -> None:
        """What the toolstack does after a checkpoint (xl save -c): a guest that suspended itself goes on where it was,
        and hears (1 instead of 0) that it was not moved. ValueError for one that did not suspend.
        """
        if self.domain.shutdown_reason != sched_abi.SHUTDOWN_suspend:
            raise ValueError("the guest is not suspended")
        self.domain.resume()
        self.engine.write("rax", 1)
        self.dom0.resume()

    def observe_console(self, observer: Callable[[bytes], None]) -> Callable[[], None]:
        """Tell ``observer`` of what the guest writes to its console; returns how to stop that."""
        return subscribe(self._console_observers, observer)

    def hypercall_nargs(self, op: int) -> int:
        """How many arguments hypercall ``op`` has; all of them for an unknown one."""
        row = TABLE.get(op)
        return row.nargs_of(self.abi.bits) if row is not None else len(self.abi.arg_registers)

    # -- what the rooms tell each other ------------------------------------------------------------------------------
    def _new_baseptr(self, is_fresh: bool) -> None:
        self.address_space.is_start_of_day = self._is_start_of_day if is_fresh else None

    def _is_start_of_day(self, page: int) -> bool:
        self.engine.is_in_handler = True  # it may have gigabytes to search
        try:
            is_start = self.stages.check_fetch(page)
        finally:
            self.engine.is_in_handler = False
        if is_start:
            self.address_space.is_start_of_day = None
        return is_start

    def _disk_worked(self, ns: int) -> None:
        self.clock.progress()
        self.clock.charge(ns)

    def _console_output(self, data: bytes) -> None:
        self.clock.progress()
        self.clock.charge(len(data) * 100)
        for observer in tuple(self._console_observers):
            observer(data)
        self.on_console_output(data)

    def _console_polled(self) -> None:
        self.clock.poll()
        self.on_console_poll()
        self.exit_handler.after_exit()
