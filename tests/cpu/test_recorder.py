"""The recorder: native callbacks and their Python likeness write the same, and the listing is what it says."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import capstone
import pytest

from pvemu.config import DomainConfig
from pvemu.cpu.recording import RECORDED, Chunk
from pvemu.cpu.unicorn.recorder_code import LISTING, native_code
from pvemu.machine import Machine
from tests.micro_guests import NOTES, SCRIPT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Assemble

SOURCE = """
.globl _start
_start:
    movabs $0x1122334455667788, %rax
    mov $3, %ecx
loop:
    push %rax
    add $1, %rax
    pop %rbx
    dec %ecx
    jnz loop
    lea buffer(%rip), %rdi
    mov $4, %ecx
    rep stosb
    movzbl buffer(%rip), %edx
    xor %edi, %edi
    mov $2, %edi
    lea reason(%rip), %rsi
    mov $29, %eax
    syscall
.data
buffer: .quad 0
reason: .long 0
"""


@pytest.fixture
def micro(assemble: Assemble) -> Path:
    return assemble(NOTES + SOURCE, script=SCRIPT)


def run(
    path: Path, *, is_native: bool, with_memory: bool = True, first: int | None = None
) -> tuple[list[int], list[tuple[int, ...]], int, Machine]:
    """(all words, registers before each chunk, instructions, machine); from instruction ``first`` on, if given."""
    machine = Machine.create(DomainConfig(kernel=str(path), memory_mib=8))
    words: list[int] = []
    registers: list[tuple[int, ...]] = []

    def sink(chunk: Chunk) -> None:
        words.extend(chunk.words)
        registers.append(chunk.registers)

    machine.start()
    recorder = machine.engine.record_instructions(
        sink, with_memory=with_memory, is_open=first is None, is_native=is_native
    )
    assert recorder.is_native == (is_native and native_code() is not None)
    if first is not None:
        recorder.announce(first, recorder.open)
    machine.run()
    count = recorder.count
    recorder.close()
    machine.close()
    return words, registers, count, machine


def decode(words: list[int]) -> list[tuple[str, int, dict[str, int]]]:
    found, at = [], 0
    while at < len(words):
        address, kind = words[at], words[at + 1]
        at += 2
        if kind >> 63:
            name = "write" if kind >> 32 & 0xFF == 17 else "read"
            found.append((name, address, {"size": kind & 0xFF, "value": words[at]}))
            at += 1
            continue
        changed = {}
        for i, register in enumerate(RECORDED):
            if kind >> i & 1:
                changed[register] = words[at]
                at += 1
        found.append(("insn", address, changed))
    return found


@pytest.mark.parametrize("is_native", [True, False])
def test_every_instruction_its_registers_and_its_accesses(micro: Path, is_native: bool) -> None:
    words, registers, count, machine = run(micro, is_native=is_native)
    records = decode(words)
    instructions = [record for record in records if record[0] == "insn"]
    assert count == len(instructions) == 2 + 3 * 5 + 2 + 5 + 5 + 1  # a rep looks at its count once more
    assert machine.domain.shutdown_reason == 0
    assert instructions[0][1:] == (0x100000, {})
    assert instructions[1][2] == {"rax": 0x1122334455667788}
    assert instructions[2][2] == {"rcx": 3}
    stack = registers[0][RECORDED.index("rsp")]
    assert instructions[3][2] == {"rsp": stack - 8}
    place = machine.walker.lookup(stack - 8)  # machine addresses: the engine knows no others of an access
    assert place is not None
    assert [record for record in records if record[0] != "insn"][:2] == [
        ("write", place, {"size": 8, "value": 0x1122334455667788}),
        ("read", place, {"size": 8, "value": 0x1122334455667788}),
    ]
    stores = [record for record in records if record[0] == "write" and record[2]["size"] == 1]
    assert [value["value"] for _, _, value in stores] == [0x8B] * 4
    assert stores[-1][1] - stores[0][1] == 3


def test_native_and_python_callbacks_write_the_same(micro: Path) -> None:
    native, python = run(micro, is_native=True), run(micro, is_native=False)
    assert native[:3] == python[:3]


@pytest.mark.parametrize("is_native", [True, False])
def test_the_gate_opens_at_an_announced_instruction(micro: Path, is_native: bool) -> None:
    all_words, _, count, _ = run(micro, is_native=is_native, with_memory=False)
    words, registers, again, _ = run(micro, is_native=is_native, with_memory=False, first=4)
    following = 4 + len(decode(words))
    assert again == count
    whole, part = decode(all_words), decode(words)
    assert [address for _, address, _ in part] == [address for _, address, _ in whole[3:]]
    assert part[1:] == whole[4:]
    assert following == count + 1
    assert dict(zip(RECORDED, registers[0], strict=True))["rcx"] == 3


@pytest.mark.parametrize("is_native", [True, False])
def test_blocks(micro: Path, is_native: bool) -> None:
    machine = Machine.create(DomainConfig(kernel=str(micro), memory_mib=8))
    words: list[int] = []
    machine.start()
    code: list[tuple[int, int]] = []
    recorder = machine.engine.record_blocks(
        words.extend, is_native=is_native, on_code=lambda at, size: code.append((at, size))
    )
    machine.run()
    recorder.close()
    machine.close()
    starts, sizes = words[::2], words[1::2]
    loop = 0x100000 + 10 + 5
    assert starts[:2] == [0x100000, loop]
    assert sizes[1] == 1 + 4 + 1 + 2 + 2
    assert starts.count(loop) == 2
    assert code.count((loop, sizes[1])) == 1


def test_what_a_sink_raises_ends_the_run(micro: Path) -> None:
    machine = Machine.create(DomainConfig(kernel=str(micro), memory_mib=8))

    def sink(_chunk: Chunk) -> None:
        raise RuntimeError("no room")

    machine.start()
    recorder = machine.engine.record_instructions(sink)
    recorder.announce(3, recorder.flush)
    with pytest.raises(RuntimeError, match="no room"):
        machine.run()
    machine.close()


def test_the_listing_is_what_it_says() -> None:
    code = b"".join(bytes.fromhex(line.code) for line in LISTING)
    found = list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0))
    assert [f"{insn.mnemonic} {insn.op_str}".strip() for insn in found] == [line.text for line in LISTING]
    assert [insn.bytes.hex(" ") for insn in found] == [line.code for line in LISTING]


def test_another_host_gets_no_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert native_code() is None
