"""Names for addresses in a real GRUB of either width: kernel, modules, hand-off to the next stage, copied code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pvemu.config import DomainConfig
from pvemu.debug.symbols import SymbolFiles, Symbols
from pvemu.disk.spec import parse_disk_specs
from pvemu.machine import Machine
from pvemu.testing.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pvemu.debug.stages import Stage
    from pvemu.mkimage.packages import PackageCache


class Booted:
    """A machine that stands where its console matched, and names seen on the way."""

    def __init__(self, kernel: Path, disk: Path, until: str, files: SymbolFiles) -> None:
        disks = parse_disk_specs([f"xvda={disk}"])
        self.machine = machine = Machine.create(DomainConfig(kernel=str(kernel), memory_mib=128, disks=disks))
        self.symbols = Symbols.of(machine, files)
        self.plain = Symbols.of(machine)
        self.callers: set[str | None] = set()
        self.at_start: list[str | None] = []
        rip = machine.engine.reader("rip")
        machine.hypercalls.monitor(lambda row, args: None, lambda row, args, result: self._note(rip()[0]))
        machine.stages.observe(self._start)
        self.verdict = Session(machine, until=re.compile(until.encode())).run()

    def _note(self, rip: int) -> None:
        self.callers.add(self.symbols.name(rip))

    def _start(self, stage: Stage) -> None:
        self.at_start.append(self.symbols.name(stage.entry))


@pytest.fixture(scope="module", params=["x86_64-xen", "i386-xen"])
def booted(
    request: pytest.FixtureRequest, guest: Callable[[str, str], Path], packages: PackageCache
) -> Iterator[Booted]:
    folder = packages.get(["grub-xen-dbg"])["grub-xen-dbg"].path(f"/usr/lib/grub/{request.param}")
    kernel = guest("pvgrub", f"grub-{request.param}.bin")
    made = Booted(kernel, guest("chain", "chain.img"), "oracle-marker-entry", SymbolFiles([folder]))
    assert made.verdict.verdict == "success", made.verdict.reason
    yield made
    made.machine.close()


def test_the_kernels_exports_are_read_from_memory(booted: Booted) -> None:
    for symbols in (booted.symbols, booted.plain):
        (address,) = symbols.address("grub_malloc")
        assert symbols.name(address) == "stage1:kernel:grub_malloc"
        assert symbols.name(address + 1) == "stage1:kernel:grub_malloc+0x1"
        assert symbols.address("stage1:kernel:grub_malloc+0x1") == [address + 1]
        assert symbols.address("stage0:kernel:grub_malloc") == []


def test_modules_are_those_that_grub_lists(booted: Booted) -> None:
    names = {module.name for module in booted.symbols.modules()}
    assert names >= {"kernel", "normal", "ext2", "echo", "search"}
    assert names == {module.name for module in booted.plain.modules()}


def test_a_modules_exports_need_no_file(booted: Booted) -> None:
    (address,) = booted.plain.address("normal:grub_normal_execute") or booted.plain.address("grub_menu_execute_entry")
    assert str(booted.plain.name(address)).startswith("stage1:normal:grub_")
    assert booted.plain.line(address) is None


def test_static_functions_and_lines_come_from_the_debug_files(booted: Booted) -> None:
    (address,) = booted.symbols.address("grub_ext2_read_block")
    assert booted.symbols.name(address + 4) == "stage1:ext2:grub_ext2_read_block+0x4"
    assert booted.plain.name(address + 4) == f"stage1:ext2+{address + 4 - booted.plain.address('ext2+0')[0]:#x}"
    line = booted.symbols.line(address)
    assert line is not None
    assert re.search(r"fs/ext2\.c:\d+$", line)
    assert len(booted.symbols.address("grub_mod_init")) > 5
    assert len(booted.symbols.address("echo:grub_mod_init")) == 1


def test_code_that_calls_hypercalls_was_named_in_both_stages(booted: Booted) -> None:
    seen = {str(name) for name in booted.callers}
    assert "None" not in seen
    assert any(name.startswith("stage0:kernel:grub_xen_") for name in seen)
    assert any(name.startswith("stage1:kernel:grub_xen_") for name in seen)


def test_the_relocators_copy_is_named_after_its_original(booted: Booted) -> None:
    copies = sorted(name for name in map(str, booted.callers) if name.endswith(" (copy)"))
    assert copies
    assert all(name.startswith("stage0:relocator:grub_relocator_xen_") for name in copies)


def test_a_new_stage_is_known_from_its_first_instruction(booted: Booted) -> None:
    assert booted.at_start == ["stage1:kernel:_start"]


def test_an_address_of_nothing_has_no_name(booted: Booted) -> None:
    assert booted.symbols.name(0xDEAD_BEEF_0000) is None
    assert booted.symbols.line(0xDEAD_BEEF_0000) is None
    assert booted.symbols.address("no_such_function") == []
    assert booted.symbols.address("::+") == []


def test_an_unloaded_module_is_forgotten(booted: Booted) -> None:
    symbols = booted.plain
    (echo,) = (module for module in symbols.modules() if module.name == "echo")
    head_at = symbols.address("grub_dl_head")[0]
    guest, width = booted.machine.guest, booted.machine.abi.long_size
    head = guest.copy_from_guest(head_at, width)
    handle = int.from_bytes(head, "little")
    grub = symbols._current().grub
    assert grub is not None
    newest = grub._kernel.module_at(handle)
    assert newest is not None
    guest.copy_to_guest(head_at, newest.next.to_bytes(width, "little"))
    try:
        assert newest.name not in {module.name for module in symbols.modules()}
        assert symbols.name(newest.base) is None
    finally:
        guest.copy_to_guest(head_at, head)
    assert symbols.name(echo.base) is not None


@pytest.mark.parametrize("garbage", [b"\xff", b"\x01", b"\x41\x00\x00"])
def test_a_damaged_list_ends_the_list_and_nothing_else(booted: Booted, garbage: bytes) -> None:
    symbols = booted.plain
    guest, width = booted.machine.guest, booted.machine.abi.long_size
    head_at = symbols.address("grub_dl_head")[0]
    head = guest.copy_from_guest(head_at, width)
    node = int.from_bytes(head, "little")
    kept = guest.copy_from_guest(node, 18 * width)
    guest.copy_to_guest(node, (garbage * 18 * width)[: 18 * width])
    try:
        symbols.refresh()
        assert [module.name for module in symbols.modules()] == ["kernel"]
    finally:
        guest.copy_to_guest(node, kept)
    symbols.refresh()
    assert len(symbols.modules()) > 5


def test_a_list_in_a_circle_ends(booted: Booted) -> None:
    symbols = booted.plain
    guest, width = booted.machine.guest, booted.machine.abi.long_size
    grub = symbols._current().grub
    assert grub is not None
    first = grub._kernel.modules()[0]
    at = guest.copy_from_guest(first.handle, 18 * width).find(first.next.to_bytes(width, "little"), 8 * width)
    assert at > 0
    guest.copy_to_guest(first.handle + at, first.handle.to_bytes(width, "little"))
    try:
        assert [module.name for module in grub._kernel.modules()] == [first.name]
    finally:
        guest.copy_to_guest(first.handle + at, first.next.to_bytes(width, "little"))
