"""Traces of code: instructions, Tenet, drcov, call trees; each read back by a reader of its format's description."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pvemu.config import DomainConfig
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.errors import ConfigError
from pvemu.machine import Machine
from pvemu.testing.session import Session
from pvemu.trace.attach import AttachedTrace, Request
from pvemu.trace.window import Place, parse_place
from tests.micro_guests import NOTES, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Output:
    """What a trace wrote."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, text: str, /) -> None:
        self.content += text.encode()

    def write_bytes(self, data: bytes, /) -> None:
        self.content += data

    @property
    def lines(self) -> list[str]:
        return self.content.decode().splitlines()


SOURCE = """
.globl _start
_start:
    mov $3, %ebx
.Lagain:
    call twice
    dec %ebx
    jnz .Lagain
    lea reason(%rip), %rsi
    mov $2, %edi
    mov $29, %eax
    syscall
    ud2
.globl twice
.type twice, @function
twice:
    addq $2, counter(%rip)
    ret
.size twice, . - twice
.data
counter: .quad 0x1122334455660000
reason: .long 0
"""
TWICE = 0x100000 + 5 + 5 + 2 + 2 + 7 + 5 + 5 + 2 + 2
TOTAL = 1 + 3 * (1 + 2 + 2) + 4


@pytest.fixture
def micro(assemble: Callable[..., Path]) -> Path:
    return assemble(NOTES + SOURCE, script=SCRIPT)


def trace(kernel: Path, request: Request, until: str | None = None) -> Output:
    machine = Machine.create(DomainConfig(kernel=str(kernel), memory_mib=32))
    out = Output()
    traces: list[AttachedTrace] = []

    def attach(machine: Machine) -> None:
        traces.append(AttachedTrace(machine, Symbols.of(machine, SymbolFiles()), request, out))

    session = Session(machine, until=re.compile(until.encode()) if until else None, on_domain=attach)
    verdict = session.run()
    assert verdict.verdict == "success", verdict.reason
    traces[0].close()
    machine.close()
    return out


def test_instructions_with_what_they_change_and_touch(micro: Path) -> None:
    lines = trace(micro, Request(instructions=True)).lines
    assert len(lines) == TOTAL
    assert lines[0] == "1 0x100000 stage0:micro-1:_start: mov ebx, 3  rbx=0x3"
    call = r"2 0x100005 stage0:micro-1:_start\+0x5: call 0x10002\d  W8\[0x1\w+\]=0x10000a  rsp=0x\w+"
    assert re.fullmatch(call, lines[1])
    assert re.fullmatch(
        rf"3 {TWICE:#x} stage0:micro-1:twice: add qword ptr \[rip \+ 0x\w+\], 2"
        r"  R8\[0x1000\w+\]=0x1122334455660000  W8\[0x1000\w+\]=0x1122334455660002",
        lines[2],
    )
    assert lines[-1].startswith(f"{TOTAL} 0x10001f stage0:micro-1:_start+0x1f: syscall")


def test_the_last_ones_only(micro: Path) -> None:
    every = trace(micro, Request(instructions=True)).lines
    assert trace(micro, Request(instructions=True, last=5)).lines == every[-5:]
    assert trace(micro, Request(instructions=True, last=1000)).lines == every


@pytest.mark.parametrize(
    ("start", "end", "first", "count"),
    [
        ("insn:5", "insn:8", 5, 3),
        ("twice", None, 3, TOTAL - 2),
        (f"{TWICE:#x}", "0x10000a", 3, 2),
        ("stage:0", "twice", 1, 2),
        ("hypercall:1", None, TOTAL + 1, 0),
    ],
)
def test_a_window(micro: Path, start: str, end: str | None, first: int, count: int) -> None:
    every = trace(micro, Request(instructions=True)).lines
    window = Request(
        instructions=True, start=parse_place(start, "--from"), end=parse_place(end, "--to") if end else None
    )
    lines = trace(micro, window).lines
    assert len(lines) == count
    assert [line.split("  ")[0] for line in lines] == [
        line.split("  ")[0] for line in every[first - 1 : first - 1 + count]
    ]


def read_tenet(text: str) -> list[tuple[dict[str, int], list[tuple[str, int, bytes]]]]:
    """Tenet's text format: (registers, accesses) of each line."""
    found = []
    for line in text.splitlines():
        registers, accesses = {}, []
        for entry in line.split(","):
            name, value = entry.split("=")
            if name in ("mr", "mw", "mrw"):
                address, content = value.split(":")
                accesses.append((name, int(address, 16), bytes.fromhex(content)))
            else:
                registers[name.lower()] = int(value, 16)
        found.append((registers, accesses))
    return found


def test_tenet_is_read_back(micro: Path) -> None:
    lines = read_tenet(trace(micro, Request(format="tenet")).content.decode())
    assert len(lines) == TOTAL
    assert len(lines[0][0]) == 17
    assert [registers["rip"] for registers, _ in lines[:4]] == [0x100000, 0x100005, TWICE, TWICE + 8]
    assert lines[1][0]["rbx"] == 3
    accesses = lines[3][1]  # the line that comes to the RET has what the ADD before it touched
    assert [(kind, content[:2]) for kind, _, content in accesses] == [("mr", b"\0\0"), ("mw", b"\2\0")]
    assert accesses[0][1] == accesses[1][1]


class CoveredModule(NamedTuple):
    base: int
    end: int
    path: str


def read_drcov(content: bytes) -> tuple[list[CoveredModule], list[tuple[int, int, int]]]:
    """drcov, version 2 with module table version 2: modules, and (module, offset, size) of the blocks."""
    head, _, rest = content.partition(b"BB Table: ")
    count, _, table = rest.partition(b" bbs\n")
    lines = head.decode().splitlines()
    assert lines[0] == "DRCOV VERSION: 2"
    assert lines[1].startswith("DRCOV FLAVOR: ")
    match = re.fullmatch(r"Module Table: version 2, count (\d+)", lines[2])
    assert match is not None
    columns = lines[3].removeprefix("Columns: ").split(", ")
    modules = []
    for number, line in enumerate(lines[4:]):
        row = dict(zip(columns, line.split(", ", len(columns) - 1), strict=True))
        assert int(row["id"]) == number
        modules.append(CoveredModule(int(row["base"], 16), int(row["end"], 16), row["path"]))
    assert len(modules) == int(match[1])
    assert len(table) == 8 * int(count)
    blocks = [(module, start, size) for start, size, module in struct.iter_unpack("<IHH", table)]
    return modules, blocks


def test_drcov_is_read_back(guest: Callable[[str, str], Path]) -> None:
    grub = guest("pvgrub", "grub-x86_64-xen.bin")
    modules, blocks = read_drcov(bytes(trace(grub, Request(format="drcov"), until="grub> ").content))
    paths = [module.path for module in modules]
    assert "stage0/kernel" in paths
    assert any(path.startswith("stage0/normal") for path in paths)
    assert len(blocks) > 2000
    assert (paths.index("stage0/kernel"), 0) in {(module, start) for module, start, _ in blocks}
    assert all(start + size <= modules[m].end - modules[m].base + 16 for m, start, size in blocks if m)


def test_a_call_tree_counts_every_instruction(micro: Path) -> None:
    tree = trace(micro, Request(calls=True)).lines
    assert tree[1].split() == [str(TOTAL), str(TOTAL - 6), "1", "stage0:micro-1:_start"]
    (twice,) = [line.split() for line in tree if line.endswith("twice")]
    assert twice[:3] == ["6", "6", "3"]


def read_folded(lines: list[str]) -> dict[tuple[str, ...], int]:
    """Folded stacks: frames by semicolons, a blank, a count."""
    found = {}
    for line in lines:
        stack, _, count = line.rpartition(" ")
        found[tuple(stack.split(";"))] = int(count)
    return found


def test_folded_stacks_are_read_back(micro: Path) -> None:
    stacks = read_folded(trace(micro, Request(format="folded")).lines)
    assert sum(stacks.values()) == TOTAL
    (twice,) = [stack for stack in stacks if stack[-1] == "stage0:micro-1:twice"]
    assert stacks[twice] == 6
    assert twice[-2] == "stage0:micro-1:_start"


def test_a_traced_run_is_the_same_run(guest: Callable[[str, str], Path]) -> None:
    grub = guest("pvgrub", "grub-x86_64-xen.bin")

    def outcome(request: Request | None) -> object:
        machine = Machine.create(DomainConfig(kernel=str(grub), memory_mib=32))
        traces: list[AttachedTrace] = []

        def attach(machine: Machine) -> None:
            if request is not None:
                traces.append(AttachedTrace(machine, Symbols.of(machine), request, Output()))

        session = Session(machine, until=re.compile(b"Welcome"), on_domain=attach)
        verdict = session.run()
        for one in traces:
            one.close()
        machine.close()
        return bytes(session.console), verdict.guest_seconds, verdict.hypercalls

    plain = outcome(None)
    for request in (
        Request(format="drcov"), Request(calls=True), Request(instructions=True, last=10, accesses=False),
        Request(instructions=True, last=10, start=Place("insn", 2_000_000)),
    ):  # fmt: skip
        assert outcome(request) == plain


def test_a_crash_report_names_places(assemble: Callable[..., Path]) -> None:
    source = NOTES + SOURCE.replace("    addq $2, counter(%rip)\n", "    ud2\n")
    machine = Machine.create(DomainConfig(kernel=str(assemble(source, script=SCRIPT)), memory_mib=32))
    verdict = Session(machine).run()
    machine.close()
    assert verdict.verdict == "crash"
    start = verdict.crash_report.index("by name:")
    assert verdict.crash_report[start + 1] == f"       rip  {TWICE:#x}  stage0:micro-1:twice"
    assert verdict.crash_report[start + 2] == "   rsp+0x0  0x10000a  stage0:micro-1:_start+0xa"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("stage:1", Place("stage", 1)), ("hypercall:0x10", Place("hypercall", 16)),
        ("time:0.0135", Place("time", 13_500_000)), ("insn:7", Place("insn", 7)),
        ("0x1F", Place("address", 31)), ("normal:grub_cmd+0x4", Place("symbol", 0, "normal:grub_cmd+0x4")),
    ],
)  # fmt: skip
def test_places(text: str, place: Place) -> None:
    assert parse_place(text, "--from") == place


@pytest.mark.parametrize("text", ["stage:", "stage:-1", "insn:0", "time:nan", "time:soon", "hypercall:1.5", "a b", ""])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="--to"):
        parse_place(text, "--to")


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: Request(format="drcov", instructions=True), lambda: Request(format="tenet", kinds=("hypercall",)),
        lambda: Request(last=5), lambda: Request(calls=True, instructions=True),
    ],
)  # fmt: skip
def test_what_does_not_go_together(request_of: Callable[[], Request]) -> None:
    with pytest.raises(ConfigError):
        request_of()
