"""Watches a machine and makes an event of everything that was asked for, in the order in which it happens."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from hypercalls.public import errno
from hypercalls.public.io.xs_wire import XS_ERROR, XS_NAMES
from pvemu.cpu.exits import PF_INSTR, PF_WRITE, Exit
from pvemu.frames import PAGE_SHIFT
from pvemu.trace.event import Event
from pvemu.trace.hypercall_decoder import Decoded, HypercallDecoder, result_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hypercalls.table import Row
    from pvemu.debug.stages import Stage
    from pvemu.debug.symbols import Symbols
    from pvemu.devices.blkback_request import CompletedRequest
    from pvemu.devices.xenstore.dispatch import Reply
    from pvemu.hypervisor.mm import EntryUpdate
    from pvemu.hypervisor.traps.emulate import Instruction
    from pvemu.hypervisor.traps.traps import Delivery
    from pvemu.machine import Machine

__all__ = ["KINDS", "Tracer"]

#: What can be traced.
KINDS = ("hypercall", "xenstore", "block", "event", "fault", "page", "console", "stage")
_SOFTWARE_INTERRUPT_SIZE = 2  # int $0x82
_SMALL = 1024  # results from here on are addresses
_VECTORS = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM",
}  # fmt: skip


class Tracer:
    """Attached to ``machine`` from now until :meth:`close`. ``kinds`` are of KINDS; of these, events whose name (or
    command, path, port's use) matches one of the shell patterns ``only``, and none of those that begin with ``!``.
    """

    def __init__(
        self, machine: Machine, symbols: Symbols, kinds: Iterable[str], sink: Callable[[Event], None],
        only: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._machine = machine
        self._symbols = symbols
        self._sink = sink
        self._wanted = [pattern for pattern in only if not pattern.startswith("!")]
        self._unwanted = [pattern[1:] for pattern in only if pattern.startswith("!")]
        self._has_patterns = bool(only)
        self._clock, self._start = machine.clock, machine.clock.start
        self._hypercalls = machine.hypercalls
        self._rip = machine.engine.reader("rip")
        self._decoder = HypercallDecoder(machine.abi, machine.guest)
        self._calls: list[tuple[Row, Decoded, int, int]] = []
        self._hypercall_rip_offset = _SOFTWARE_INTERRUPT_SIZE if machine.abi.bits == 32 else 0
        self._undo: list[Callable[[], None]] = []
        attach = {
            "hypercall": self._attach_hypercalls, "xenstore": self._attach_xenstore, "block": self._attach_blocks,
            "event": self._attach_events, "fault": self._attach_faults, "page": self._attach_pages,
            "console": self._attach_console, "stage": self._attach_stages,
        }  # fmt: skip
        for kind in dict.fromkeys(kinds):
            attach[kind]()

    def close(self) -> None:
        """Look no longer. A call that never came back (it ended the domain) is told of now."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        for row, decoded, time, rip in reversed(self._calls):
            self._calls.pop()
            self._tell_call(row, decoded, time, rip, "?")

    def _now(self) -> int:
        return self._clock.time - self._start

    def _emit(
        self, kind: str, name: str, fields: dict[str, object], result: object = None, *, subject: str = "",
        rip: int | None = None,
    ) -> None:  # fmt: skip
        if self._has_patterns and not self._is_wanted(name, subject):
            return
        rip = self._rip()[0] if rip is None else rip
        self._sink(Event(kind, self._now(), rip, self._symbols.name(rip), name, fields, result, len(self._calls)))

    def _is_wanted(self, name: str, subject: str) -> bool:
        if any(fnmatchcase(text, pattern) for pattern in self._unwanted for text in (name, subject)):
            return False
        return not self._wanted or any(fnmatchcase(text, p) for p in self._wanted for text in (name, subject))

    # -- hypercalls ----------------------------------------------------------------------------------------------------
    def _attach_hypercalls(self) -> None:
        self._undo.append(self._machine.hypercalls.monitor(self._before_call, self._after_call))

    def _before_call(self, row: Row, args: Sequence[int]) -> None:
        rip = self._rip()[0] - self._hypercall_rip_offset
        self._calls.append((row, self._decoder.before(row, args), self._now(), rip))

    def _after_call(self, row: Row, args: Sequence[int], result: int) -> None:
        row, decoded, time, rip = self._calls.pop()
        if decoded.place is not None:
            self._decoder.after(decoded)
        answer: object = result
        if result < 0 or result >= _SMALL:
            answer = result_text(result)
            refusal = self._hypercalls.refusal
            if refusal and -result in errno.NAMES:
                answer = f"{answer} ({refusal})"
        self._hypercalls.refusal = ""
        self._tell_call(row, decoded, time, rip, answer)

    def _tell_call(self, row: Row, decoded: Decoded, time: int, rip: int, answer: object) -> None:
        command, fields, _place = decoded
        if self._has_patterns and not self._is_wanted(row.name, command or ""):
            return
        self._sink(Event("hypercall", time, rip, self._symbols.name(rip), row.name, fields, answer, len(self._calls),
                         self._now() - time))  # fmt: skip

    # -- dom0 ----------------------------------------------------------------------------------------------------------
    def _attach_xenstore(self) -> None:
        def after(domid: int, msg_type: int, tx_id: int, payload: bytes, reply: Reply) -> None:
            if domid != self._machine.config.domid:
                return
            name = XS_NAMES.get(msg_type, f"message {msg_type}").removeprefix("XS_")
            path, _, rest = payload.partition(b"\0")
            fields: dict[str, object] = {"path": _quoted(path)}
            if rest.rstrip(b"\0"):
                fields["value"] = _quoted(rest.rstrip(b"\0"))
            if tx_id:
                fields["transaction"] = tx_id
            kind, answer = reply
            text = answer.rstrip(b"\0")
            result = text.decode("latin-1") if kind == XS_ERROR else _quoted(text)
            self._emit("xenstore", name, fields, result, subject=path.decode("latin-1"))

        def fired(domid: int, path: bytes, token: bytes) -> None:
            if domid == self._machine.config.domid:
                fields: dict[str, object] = {"path": _quoted(path), "token": _quoted(token)}
                self._emit("xenstore", "WATCH_EVENT", fields, None, subject=path.decode("latin-1"))

        store = self._machine.xenstore
        self._undo += [store.monitor(after=after), store.observe_events(fired)]

    def _attach_blocks(self) -> None:
        from pvemu.trace.blocks import BlockNames  # with readers of file systems

        for vdev, backend in self._machine.backends.items():
            names = BlockNames(vdev, backend.disk)

            def done(request: CompletedRequest, names: BlockNames = names) -> None:
                name, fields, result = names.describe(request)
                self._emit("block", name, fields, result, subject=names.files_of(fields))

            self._undo.append(backend.observe(done))

    def _attach_console(self) -> None:
        def written(data: bytes) -> None:
            self._emit("console", "write", {"text": _quoted(data)})

        self._undo.append(self._machine.observe_console(written))

    def _attach_stages(self) -> None:
        def started(stage: Stage) -> None:
            fields: dict[str, object] = {
                "number": len(self._machine.stages.stages) - 1, "guest_os": stage.guest_os or "?",
                "entry": f"{stage.entry:#x}", "cmdline": repr(stage.cmdline),
            }  # fmt: skip
            self._emit("stage", "start", fields, rip=stage.entry)

        for stage in self._machine.stages.stages:
            started(stage)
        self._undo.append(self._machine.stages.observe(started))

    # -- the CPU -------------------------------------------------------------------------------------------------------
    def _attach_events(self) -> None:
        channels = self._machine.event_channels
        self._undo.append(
            channels.observe(
                lambda port: self._emit("event", "send", {"port": port, "to": self._port_use(port)}),
                lambda port: self._emit("event", "pending", {"port": port, "from": self._port_use(port)}),
            )
        )

        def delivered(delivery: Delivery) -> None:
            if delivery.kind in ("event", "nmi"):
                self._emit("event", "upcall" if delivery.kind == "event" else "nmi", {})

        self._undo.append(self._machine.traps.observe(delivered))

    def _port_use(self, port: int) -> str:
        """What dom0 or Xen uses a port for."""
        machine = self._machine
        known = {machine.store_port: "xenstore", machine.console_port: "console"}
        if port in known:
            return known[port]
        for vdev, backend in machine.backends.items():
            if backend.ring is not None and backend.ring.port == port:
                return vdev
        return "virq" if machine.event_channels.backend_of(port) is None else "dom0"

    def _attach_faults(self) -> None:
        def raised(leaving: Exit) -> None:
            fields: dict[str, object] = {}
            name = _VECTORS.get(leaving.vector, f"vector {leaving.vector}")
            if leaving.is_software:
                name = f"int {leaving.vector:#x}"
            if leaving.error_code >= 0:
                fields["error_code"] = f"{leaving.error_code:#x}"
            if leaving.vector == 14:
                fields["address"] = f"{leaving.address:#x}"
                at = self._symbols.name(leaving.address)
                if at is not None:
                    fields["of"] = at
                access = leaving.error_code
                fields["access"] = "fetch" if access & PF_INSTR else "write" if access & PF_WRITE else "read"
            self._emit("fault", name, fields)

        def delivered(delivery: Delivery) -> None:
            if delivery.kind in ("exception", "interrupt", "syscall"):
                vector = "syscall" if delivery.kind == "syscall" else _VECTORS.get(delivery.vector, delivery.vector)
                self._emit("fault", "deliver", {"vector": vector})

        self._undo.append(self._machine.exceptions.observe(raised))
        self._undo.append(self._machine.traps.observe(delivered))

        def emulated(rip: int, instruction: Instruction) -> None:
            self._emit("fault", "emulated", {"opcode": f"{instruction.opcode:#x}"}, rip=rip)

        self._undo.append(self._machine.privileged.observe(emulated))

    def _attach_pages(self) -> None:
        machine = self._machine

        def changed(update: EntryUpdate) -> None:
            fields: dict[str, object] = {
                "level": update.level, "table": f"{update.maddr >> PAGE_SHIFT:#x}",
                "slot": f"{(update.maddr & 0xFFF) >> 3:#x}", "old": self._entry(update.old),
                "new": self._entry(update.new),
            }  # fmt: skip
            self._emit("page", f"L{update.level}", fields)

        self._undo.append(machine.mm.observe(changed))

    def _entry(self, entry: int) -> str:
        """A page-table entry with the pfn of its frame."""
        if not entry & 1:
            return f"{entry:#x}"
        pfn = self._machine.m2p.get((entry & 0x000F_FFFF_FFFF_F000) >> PAGE_SHIFT)
        return f"{entry:#x} (pfn {pfn:#x})" if pfn < 1 << 40 else f"{entry:#x}"


def _quoted(data: bytes) -> str:
    """Bytes as quoted text, NULs as what they separate."""
    return repr(data.decode("latin-1"))
