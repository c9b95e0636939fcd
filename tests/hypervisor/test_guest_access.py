"""Copies to and from guest addresses: page by page, refused where Xen refuses."""

from __future__ import annotations

import pytest

from hypercalls.public import errno as e
from pvemu.cpu.paging import access_ok
from tests.hypervisor.world import RWX, US, P, World, pte, refused

LOW_END, HIGH = 1 << 47, 0xFFFF_8800_0000_0000


@pytest.fixture
def world() -> World:
    """Pages 0 and 1 writable, 2 read-only, 3 not there; 0 and 1 in reverse order in the machine."""
    world = World()
    data = world.mfns[20:23]
    world.boot({0: pte(data[1], RWX), 1: pte(data[0], RWX), 2: pte(data[2], P | US)})
    return world


def test_copies_across_pages(world: World) -> None:
    text = bytes(range(200))
    world.guest.copy_to_guest(0x1000 - 100, text)
    assert world.guest.copy_from_guest(0x1000 - 100, 200) == text
    assert world.ram.read((world.mfns[21] << 12) + 0xF9C, 100) == text[:100]
    assert world.ram.read(world.mfns[20] << 12, 100) == text[100:]
    assert world.guest.copy_from_guest(0x1FFF, 2) == b"\0\0"
    assert world.guest.copy_from_guest(0x10, 0x1FF0)[0xF8C : 0xF8C + 200] == text


def test_what_is_written_is_marked_dirty_as_the_cpu_would(world: World) -> None:
    l1 = world.mfns[3]
    assert world.entry(l1, 0) & 0x40 == 0
    world.guest.copy_to_guest(0, b"x")
    assert world.entry(l1, 0) & 0x60 == 0x60
    assert world.entry(l1, 1) & 0x60 == 0


def test_refusals(world: World) -> None:
    guest = world.guest
    refused(e.EFAULT, guest.copy_from_guest, 0x3000, 1)
    refused(e.EFAULT, guest.copy_from_guest, 0x2FFF, 2)
    refused(e.EFAULT, guest.copy_to_guest, 0x2000, b"x")
    for vaddr in (LOW_END, LOW_END - 1, 1 << 62, 0xFFFF_8000_0000_0000, HIGH - 1, HIGH, (1 << 64) - 1, 1 << 64):
        refused(e.EFAULT, guest.copy_from_guest, vaddr, 8)
        refused(e.EFAULT, guest.copy_to_guest, vaddr, bytes(8))


def test_pages_before_the_bad_one_are_written(world: World) -> None:
    refused(e.EFAULT, world.guest.copy_to_guest, 0x1FFE, b"abcd")
    assert world.guest.copy_from_guest(0x1FFE, 2) == b"ab"
    assert world.guest.copy_from_guest(0x2000, 2) == b"\0\0"


def test_nothing_can_be_copied_anywhere(world: World) -> None:
    for vaddr in (0x3000, 1 << 62, 0xFFFF_8000_0000_0000):
        assert world.guest.copy_from_guest(vaddr, 0) == b""
        world.guest.copy_to_guest(vaddr, b"")


def test_read_string(world: World) -> None:
    world.guest.copy_to_guest(0xFFA, b"hello world\0more")
    assert world.guest.read_string(0xFFA, 100) == b"hello world"
    assert world.guest.read_string(0xFFA, 4) == b"hell"
    world.guest.copy_to_guest(0x1FF8, b"lastpage")
    assert world.guest.read_string(0x1FF8, 100) == b"lastpage"  # ended by the page of zeros after it
    assert world.guest.read_string(0x2FFF, 100) == b""
    assert world.guest.read_string(0x3000, 100) == b""


@pytest.mark.parametrize(
    ("vaddr", "size", "ok"),
    [
        (0, LOW_END, True), (0, LOW_END + 1, False), (LOW_END - 8, 8, True), (LOW_END, 1, False),
        (HIGH, 8, True), (HIGH - 1, 8, False), ((1 << 64) - 8, 8, True), ((1 << 64) - 8, 9, False),
        (0xFFFF_8000_0000_0000, 1, False), (1 << 64, 1, False),
    ],
)  # fmt: skip
def test_access_ok(vaddr: int, size: int, ok: bool) -> None:
    assert access_ok(vaddr, size) is ok
