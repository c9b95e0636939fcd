"""What happens when guest code leaves for Xen and goes on behind: hypercalls, RDTSC, CPUID, ports
(xen/arch/x86/x86_64/entry.S, compat/entry.S and what they call). Each exit takes guest time, charged here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.public import arch_x86
from pvemu.hypervisor.vcpu.current import ServesCurrent

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercalls.abi import Abi
    from pvemu.cpu.cpuid import CpuPolicy
    from pvemu.cpu.guest_cpu import GuestCpu
    from pvemu.cpu.paging import PageWalker
    from pvemu.hypervisor.hypercall import HypercallDispatcher
    from pvemu.hypervisor.time import VirtualClock
    from pvemu.hypervisor.traps.emul_priv_op import PrivilegedOps
    from pvemu.hypervisor.traps.msr import Msrs
    from pvemu.hypervisor.traps.traps import Traps
    from pvemu.hypervisor.tsc import Tsc
    from pvemu.hypervisor.vcpu import Vcpu

__all__ = ["TRAP_NS", "HypercallRecord", "PvExitHandler"]

TRAP_NS = 1_000
_HYPERCALL_NS = 1_000
_FIRST_FILL_NS = 100
_RECENT_HYPERCALLS = 16
_EPOCH_NS = 1_000_000_000
_INT_LENGTH = 2
#: SYSCALL forgets the selectors: Xen returns to these.
_FLAT = (arch_x86.FLAT_KERNEL_CS64, arch_x86.FLAT_KERNEL_SS64)


class HypercallRecord(NamedTuple):
    """One hypercall as it happened: guest time in ns, rip after it, number, arguments, result."""

    time: int
    rip: int
    op: int
    args: tuple[int, ...]
    result: int


class PvExitHandler(ServesCurrent):
    """Serves the exits of one vcpu (pvemu.cpu.exits.ExitHandler)."""

    def __init__(
        self, abi: Abi, policy: CpuPolicy, tsc: Tsc, msrs: Msrs, cpu: GuestCpu, clock: VirtualClock, vcpu: Vcpu,
        walker: PageWalker, hypercalls: HypercallDispatcher, traps: Traps, privileged: PrivilegedOps,
    ) -> None:  # fmt: skip
        self._is_compat = abi.bits == 32
        self._rdtsc = tsc.poll
        self._msrs = msrs
        #: CPUID, as with CPUID faulting.
        self.on_cpuid = policy.cpuid
        self._stop = cpu.stop
        self._clock = clock
        self._vcpu = vcpu
        self._walker = walker
        self._hypercalls = hypercalls
        self._traps = traps
        self._privileged = privileged
        self.recent: deque[HypercallRecord] = deque(maxlen=_RECENT_HYPERCALLS)  #: the last hypercalls
        #: A vcpu spins, at a place that is told by its code and stack address.
        self.on_spin: Callable[[int], None] = lambda place: None
        self._fills_charged = 0
        self._calibration_due = clock.time + _EPOCH_NS
        self._read_call: Callable[[], list[int]] = cpu.reader(
            "rax", *abi.arg_registers, "rip", "rflags", "cs", "ss"
        )
        self._read_place = cpu.reader("rip", "rsp")
        self._write_rax = cpu.writer("rax")
        self._write_rcx = cpu.writer("rcx")
        self._write_r11 = cpu.writer("r11")

    def on_syscall(self) -> None:
        """A hypercall, or a system call of user mode."""
        vcpu = self._vcpu
        if self._is_compat or not vcpu.kernel_mode:
            vcpu.leave_for(self._traps.inject_syscall)
            return
        op, *args, rip, rflags, cs, ss = self._read_call()
        if cs != _FLAT[0] and not self._traps.is_long_code():  # cstar_enter: never a hypercall
            vcpu.leave_for(self._traps.inject_syscall)
            return
        clock = self._clock
        self._charge_fills()
        clock.charge(_HYPERCALL_NS)
        result = self._hypercalls.call(op, args)
        self.recent.append(HypercallRecord(clock.time, rip, op, tuple(args), result))
        if vcpu.continuation is not None and vcpu.take_continuation(rip):
            return
        self._write_rax(result & 0xFFFF_FFFF_FFFF_FFFF)
        self._write_rcx(rip + 2)
        self._write_r11(rflags)
        if (cs, ss) != _FLAT and vcpu.resume is None:
            vcpu.leave_for(vcpu.load_flat_selectors)
        self.after_exit()

    def on_int82(self) -> bool:
        """A hypercall of a 32-bit guest's; its gate is for ring 1."""
        if not self._is_compat or not self._vcpu.kernel_mode:
            return False
        op, *args, rip, _rflags, _cs, _ss = self._read_call()
        clock = self._clock
        self._charge_fills()
        clock.charge(_HYPERCALL_NS)
        result = self._hypercalls.call(op, args)
        self.recent.append(HypercallRecord(clock.time, rip, op, tuple(args), result))
        if self._vcpu.continuation is not None and self._vcpu.take_continuation(rip - _INT_LENGTH):
            return True
        self._write_rax(result & 0xFFFF_FFFF)
        self.after_exit()
        return True

    def on_rdtsc(self) -> int:
        """RDTSC: the virtual clock, or the emulated counter."""
        self._charge_fills()
        rip, rsp = self._read_place()
        value = self._rdtsc(rip << 64 | rsp)
        self.after_exit()
        return value

    def on_tsc_aux(self) -> int:
        """What RDTSCP reads beside the counter."""
        return self._msrs.tsc_aux

    def on_pause(self) -> None:
        """PAUSE of a domain with several vcpus: one of them waits for another."""
        self._charge_fills()
        rip, rsp = self._read_place()
        self.on_spin(rip << 64 | rsp)
        self.after_exit()

    def on_port_read(self, port: int, size: int) -> int | None:
        """IN and INS, as IOPL and the I/O bitmap allow."""
        self._clock.charge(TRAP_NS)
        return self._privileged.port_read(port, size)

    def on_port_write(self, port: int, size: int, value: int) -> bool:
        """OUT and OUTS."""
        self._clock.charge(TRAP_NS)
        return self._privileged.port_write(port, size, value)

    # -- time --------------------------------------------------------------------------------------------------------
    def _charge_fills(self) -> None:
        fills = self._walker.first_fills
        if fills != self._fills_charged:
            self._clock.pass_time((fills - self._fills_charged) * _FIRST_FILL_NS)
            self._clock.progress()
            self._fills_charged = fills

    def after_exit(self) -> None:
        """test_all_events: run what is due by now, and leave guest code for an upcall that it may take."""
        clock = self._clock
        self._vcpu.softirq_pending = False
        clock.run_due()
        if clock.time >= self._calibration_due:
            self._calibrate()
        info = self._vcpu.info
        if info.upcall_pending and not info.upcall_mask:
            self._stop()

    def _calibrate(self) -> None:
        """local_time_calibration of xen/arch/x86/time.c: vcpu_time_info is as old as an EPOCH, not older."""
        self._calibration_due = self._clock.time - self._clock.time % _EPOCH_NS + _EPOCH_NS
        self._vcpu.update_time()
