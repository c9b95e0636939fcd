"""What the monitor shows of a guest that stands still, one view for each word: see ``VIEWS`` for what there is."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public import event_channel as ec
from pvemu.control.stop_points import parse_number
from pvemu.cpu.registers import GENERAL_64
from pvemu.debug.crash_report import page_walk, recent_hypercalls
from pvemu.debug.screen import render
from pvemu.devices.xenstore.dump import xenstore_ls
from pvemu.devices.xenstore.wire import XsError
from pvemu.errors import ConfigError
from pvemu.frames import PAGE_SHIFT, PAGE_SIZE
from pvemu.hypervisor.domain import SHUTDOWN_NAMES
from pvemu.monitor.code import backtrace, disassemble
from pvemu.monitor.gdb_registers import root_of
from pvemu.monitor.memory import hexdump, machine_address, read_linear, read_machine
from pvemu.monitor.vcpus import registers_of, vcpu_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.control.debuggee import Debuggee
    from pvemu.machine import Machine

__all__ = ["VIEWS", "evaluate", "show", "shutdown_line"]

_DOMID_SELF = 0x7FF0
_STATES = {
    ec.EVTCHNSTAT_unbound: "unbound", ec.EVTCHNSTAT_interdomain: "interdomain", ec.EVTCHNSTAT_pirq: "pirq",
    ec.EVTCHNSTAT_virq: "virq", ec.EVTCHNSTAT_ipi: "ipi",
}  # fmt: skip
_GRANT_TYPES = ("invalid", "access", "transfer", "transitive")
_GTF_USES = ((4, ", read-only"), (8, ", reading"), (16, ", writing"))
_CONSOLE_INDICES = 3072  # in_cons, in_prod, out_cons, out_prod of xencons_interface
_STORE_INDICES = 2048  # req_cons, req_prod, rsp_cons, rsp_prod of xenstore_domain_interface


def evaluate(debuggee: Debuggee, text: str) -> int:
    """An address as a user writes it: a number, a symbol, a register ($rip), each with +offset. ConfigError."""
    base, plus, offset_text = text.partition("+") if not text.startswith("+") else (text, "", "")
    offset = parse_number(offset_text) if plus else 0
    number = parse_number(base)
    if number is None and base.startswith("$"):
        short = (*(f"e{name[1:]}" for name in GENERAL_64[:8]), "eip")
        names = (*GENERAL_64, "rip", "cr2", "cr3", *short, "fs_base", "gs_base")
        name = base[1:]
        if name not in names:
            raise ConfigError(f"{base}: no such register; there are {', '.join('$' + known for known in names)}")
        number = _register(debuggee.machine, {"eip": "rip"}.get(name, name))
    if number is not None and offset is not None:
        return (number + offset) & 0xFFFF_FFFF_FFFF_FFFF
    found = debuggee.symbols.address(text)
    if not found:
        raise ConfigError(f"{text}: neither a number, a register as $rsp, nor a symbol that is known here")
    return found[0]


def _register(machine: Machine, name: str) -> int:
    if name == "cr2":
        return machine.vcpu.cr2
    return machine.walker.root_maddr if name == "cr3" else machine.engine.read(name)


def shutdown_line(machine: Machine) -> str:
    """Why the domain stopped."""
    reason = machine.domain.shutdown_reason
    return f"the guest shut down ({SHUTDOWN_NAMES.get(reason or 0, str(reason))})"


def show(debuggee: Debuggee, name: str, words: list[str]) -> str:
    """One view's text. ConfigError."""
    function, usage, _help = VIEWS[name]
    try:
        return function(debuggee, words)
    except IndexError:
        raise ConfigError(f"{name}: something is missing; write {usage}") from None


def _number(debuggee: Debuggee, words: list[str], at: int, default: int | None = None) -> int:
    if default is not None and len(words) <= at:
        return default
    return evaluate(debuggee, words[at])


# -- CPU ---------------------------------------------------------------------------------------------------------------
def _vcpus(debuggee: Debuggee, words: list[str]) -> str:
    lines = []
    for state in vcpu_states(debuggee.machine):
        with registers_of(debuggee.machine, state.vcpu_id):
            rip = debuggee.machine.engine.read("rip")
        mark = "*" if state.is_current else " "
        lines.append(f"{mark} vcpu {state.vcpu_id}  {state.runstate:8}  {rip:016x}  {debuggee.symbols.name(rip) or ''}")
    return "\n".join(line.rstrip() for line in lines)


def _registers(debuggee: Debuggee, words: list[str]) -> str:
    with registers_of(debuggee.machine, _number(debuggee, words, 0, debuggee.machine.vcpu.vcpu_id)):
        return _shown_registers(debuggee)


def _shown_registers(debuggee: Debuggee) -> str:
    machine = debuggee.machine
    read = machine.engine.read
    lines = ["  ".join(f"{name:>3} {read(name):016x}" for name in GENERAL_64[at : at + 4]) for at in range(0, 16, 4)]
    lines.append(f"rip {read('rip'):016x}  rflags {read('rflags'):08x}  {debuggee.symbols.name(read('rip')) or ''}")
    selectors = "  ".join(f"{name} {read(name):04x}" for name in ("cs", "ss", "ds", "es", "fs", "gs"))
    lines.append(f"{selectors}  fs_base {read('fs_base'):x}  gs_base {read('gs_base'):x}")
    mode = "kernel" if machine.vcpu.kernel_mode else "user"
    info = machine.vcpu.info
    lines.append(
        f"cr2 {machine.vcpu.cr2:x}  cr3 {root_of(machine):x}  {mode} mode, "
        f"upcall mask {info.upcall_mask} pending {info.upcall_pending}"
    )
    return "\n".join(lines)


def _disassemble(debuggee: Debuggee, words: list[str]) -> str:
    address = _number(debuggee, words, 0, debuggee.machine.engine.read("rip"))
    return disassemble(debuggee, address, _number(debuggee, words, 1, 8))


def _backtrace(debuggee: Debuggee, words: list[str]) -> str:
    return backtrace(debuggee, _number(debuggee, words, 0, 20))


def _symbol(debuggee: Debuggee, words: list[str]) -> str:
    address = evaluate(debuggee, words[0]) if words[0].startswith("$") else parse_number(words[0])
    if address is None:
        found = debuggee.symbols.address(words[0])
        if not found:
            raise ConfigError(f"{words[0]}: no such symbol in what runs now")
        return "\n".join(f"{at:#x} {debuggee.symbols.name(at)}" for at in found)
    line = debuggee.symbols.line(address)
    return (debuggee.symbols.name(address) or f"{address:#x}: nothing is known there") + (f" at {line}" if line else "")


def _modules(debuggee: Debuggee, words: list[str]) -> str:
    return "\n".join(
        f"{module.base:#014x}-{module.end:#014x}  {module.name:<16} {len(module.table):5} symbols  {module.path or ''}"
        for module in debuggee.symbols.modules()
    )


# -- memory ------------------------------------------------------------------------------------------------------------
def _memory(debuggee: Debuggee, words: list[str]) -> str:
    address, size = _number(debuggee, words, 0), _number(debuggee, words, 1, 64)
    data = read_linear(debuggee.machine, address, min(size, 1 << 16))
    if not data:
        raise ConfigError(f"{address:#x}: nothing is mapped there")
    return hexdump(address, data)


def _mfn(debuggee: Debuggee, words: list[str]) -> str:
    mfn, size = _number(debuggee, words, 0), min(_number(debuggee, words, 1, 64), PAGE_SIZE)
    machine = debuggee.machine
    data = read_machine(machine, mfn << PAGE_SHIFT, size)
    owner, type_ = machine.frames.owner_of(mfn), machine.frames.type_of(mfn)
    head = f"mfn {mfn:#x}: owner {owner.name}, type {type_.name}, pfn {machine.m2p.get(mfn):#x}"
    return head + "\n" + hexdump(mfn << PAGE_SHIFT, data)


def _pfn_to_mfn(machine: Machine, pfn: int) -> int:
    if not 0 <= pfn < machine.nr_pages << 1:
        raise ConfigError(f"pfn {pfn:#x}: the domain has {machine.nr_pages:#x} pages")
    first = machine.ram.first_mfn
    for mfn in range(first, first + machine.ram.nr_frames):
        if machine.m2p.get(mfn) == pfn and machine.frames.is_guest(mfn):
            return mfn
    raise ConfigError(f"pfn {pfn:#x}: no frame of the domain has this number")


def _pfn(debuggee: Debuggee, words: list[str]) -> str:
    mfn = _pfn_to_mfn(debuggee.machine, _number(debuggee, words, 0))
    return _mfn(debuggee, [hex(mfn), *words[1:]])


def _p2m(debuggee: Debuggee, words: list[str]) -> str:
    pfn = _number(debuggee, words, 0)
    return f"pfn {pfn:#x} = mfn {_pfn_to_mfn(debuggee.machine, pfn):#x}"


def _m2p(debuggee: Debuggee, words: list[str]) -> str:
    mfn = _number(debuggee, words, 0)
    machine = debuggee.machine
    if not machine.ram.contains(mfn):
        raise ConfigError(f"mfn {mfn:#x}: this machine has {machine.ram.first_mfn:#x} and on")
    return f"mfn {mfn:#x} = pfn {machine.m2p.get(mfn):#x}, owner {machine.frames.owner_of(mfn).name}"


def _walk(debuggee: Debuggee, words: list[str]) -> str:
    machine = debuggee.machine
    address = _number(debuggee, words, 0)
    lines = page_walk(machine.walker, machine.m2p, address)
    maddr = machine_address(machine, address)
    lines.append("not mapped" if maddr is None else f"machine address {maddr:#x} (mfn {maddr >> PAGE_SHIFT:#x})")
    return "\n".join(lines)


# -- Xen and dom0 ------------------------------------------------------------------------------------------------------
def _xenstore(debuggee: Debuggee, words: list[str]) -> str:
    path = words[0] if words else "/"
    try:
        return xenstore_ls(debuggee.machine.xenstore.client(), path).rstrip()
    except XsError as error:
        raise ConfigError(f"xenstore {path}: {error}") from None


def _events(debuggee: Debuggee, words: list[str]) -> str:
    channels = debuggee.machine.event_channels
    lines = []
    for port in range(1, 1024):
        try:
            status = channels.status(_DOMID_SELF, port)
        except XenError:
            break
        if status.status == ec.EVTCHNSTAT_closed:
            continue
        pending = ", pending" if channels.is_pending(port) else ""
        detail = " ".join(map(str, status.detail))
        lines.append(f"port {port}: {_STATES.get(status.status, '?')} {detail}, vcpu {status.vcpu}{pending}")
    return "\n".join(lines) or "no event channel is open"


def _grant(machine: Machine, ref: int) -> tuple[int, int, int]:
    """(flags, domid, frame) of an entry as it stands in the guest's table."""
    version = machine.grants.get_version(_DOMID_SELF)
    size = 8 if version < 2 else 16
    page, at = divmod(ref * size, PAGE_SIZE)
    if page >= len(machine.grants.table):
        raise ConfigError(f"grant {ref}: the table has {len(machine.grants.table) * PAGE_SIZE // size} entries")
    raw = machine.ram.read((machine.grants.table[page] << PAGE_SHIFT) + at, size)
    if version < 2:
        flags, domid, frame = struct.unpack("<HHI", raw)
    else:
        flags, domid, _pad, frame = struct.unpack("<HHIQ", raw)
    return flags, domid, frame


def _grants(debuggee: Debuggee, words: list[str]) -> str:
    machine = debuggee.machine
    count = len(machine.grants.table) * PAGE_SIZE // (8 if machine.grants.get_version(_DOMID_SELF) < 2 else 16)
    lines = []
    for ref in range(count):
        flags, domid, frame = _grant(machine, ref)
        if not flags & 3:
            continue
        use = "".join(text for bit, text in _GTF_USES if flags & bit)
        lines.append(f"ref {ref}: {_GRANT_TYPES[flags & 3]} for domain {domid}, frame {frame:#x}{use}")
    return "\n".join(lines) or "nothing is granted"


def _rings(debuggee: Debuggee, words: list[str]) -> str:
    machine = debuggee.machine
    built = machine.built
    console = struct.unpack_from("<4I", machine.ram.frame(built.console_mfn), _CONSOLE_INDICES)
    store = struct.unpack_from("<4I", machine.ram.frame(built.store_mfn), _STORE_INDICES)
    lines = [
        "console   in_cons {:#x} in_prod {:#x}  out_cons {:#x} out_prod {:#x}".format(*console),
        "xenstore  req_cons {:#x} req_prod {:#x}  rsp_cons {:#x} rsp_prod {:#x}".format(*store),
    ]
    client = machine.xenstore.client()
    for disk in machine.config.disks:
        home = f"/local/domain/{machine.config.domid}/device/vbd/{disk.number}"
        try:
            ref = int(client.read(f"{home}/ring-ref"))
            port = int(client.read(f"{home}/event-channel"))
        except (XsError, ValueError):
            lines.append(f"{disk.vdev}      no ring is offered")
            continue
        _flags, _domid, frame = _grant(machine, ref)
        if not machine.ram.contains(frame):
            lines.append(f"{disk.vdev}      ring-ref {ref} grants no frame of this machine")
            continue
        indices = struct.unpack("<4I", machine.ram.read(frame << PAGE_SHIFT, 16))
        shown = "req_prod {:#x} req_event {:#x}  rsp_prod {:#x} rsp_event {:#x}".format(*indices)
        lines.append(f"{disk.vdev}      ring-ref {ref} (mfn {frame:#x}), port {port}  {shown}")
    return "\n".join(lines)


def _screen(debuggee: Debuggee, words: list[str]) -> str:
    return "\n".join(f"| {line}" for line in render(bytes(debuggee.session.console)))


def _stages(debuggee: Debuggee, words: list[str]) -> str:
    lines = []
    for number, stage in enumerate(debuggee.machine.stages.stages):
        what = " ".join(filter(None, (stage.guest_os or "a kernel", stage.guest_version)))
        cmdline = f", command line {stage.cmdline!r}" if stage.cmdline else ""
        lines.append(f"stage {number}: {what}, entry {stage.entry:#x}, at {stage.start_ns / 1e9:.3f} s{cmdline}")
    return "\n".join(lines)


def _hypercalls(debuggee: Debuggee, words: list[str]) -> str:
    machine = debuggee.machine
    name = debuggee.symbols.name
    return "\n".join(recent_hypercalls(machine.recent, machine.clock.start, machine.hypercall_nargs, name))


def _crash(debuggee: Debuggee, words: list[str]) -> str:
    return "\n".join(debuggee.machine.crash_lines) or "the guest has not crashed"


#: By name: the function, how it is written, what it shows.
VIEWS: dict[str, tuple[Callable[[Debuggee, list[str]], str], str, str]] = {
    "registers": (_registers, "registers [VCPU]", "registers, and how the guest stands"),
    "vcpus": (_vcpus, "vcpus", "the vcpus: which stands here, what the others do"),
    "disassemble": (_disassemble, "disassemble [ADDRESS [COUNT]]", "instructions, from here when nothing is said"),
    "backtrace": (_backtrace, "backtrace [COUNT]", "callers, by frame pointers and likely return addresses"),
    "memory": (_memory, "memory ADDRESS [SIZE]", "memory at a linear address"),
    "pfn": (_pfn, "pfn NUMBER [SIZE]", "memory of the domain's page NUMBER"),
    "mfn": (_mfn, "mfn NUMBER [SIZE]", "memory of a machine frame, its owner and type"),
    "walk": (_walk, "walk ADDRESS", "the page-table walk of a linear address"),
    "p2m": (_p2m, "p2m PFN", "the machine frame of a page"),
    "m2p": (_m2p, "m2p MFN", "the page number of a machine frame"),
    "xenstore": (_xenstore, "xenstore [PATH]", "the store, or what is below a path"),
    "events": (_events, "events", "open event channels"),
    "grants": (_grants, "grants", "the grant table's entries"),
    "rings": (_rings, "rings", "indices of the console, xenstore and block rings"),
    "screen": (_screen, "screen", "the console as a person sees it"),
    "stages": (_stages, "stages", "the kernels that ran"),
    "hypercalls": (_hypercalls, "hypercalls", "the last hypercalls"),
    "symbol": (_symbol, "symbol NAME|ADDRESS", "what is called so, or is there"),
    "modules": (_modules, "modules", "what the running stage consists of"),
    "crash": (_crash, "crash", "Xen's words on a crash"),
}
