"""The page walk: permissions, error codes, accessed and dirty bits, execute permission, what is remembered."""

from __future__ import annotations

import random

import pytest

from pvemu.cpu.exits import PF_INSTR, PF_PRESENT, PF_USER, PF_WRITE, Access
from pvemu.cpu.paging import PageWalker, table_slot
from pvemu.frames import Mfn
from pvemu.memory.ram import Ram

FIRST = Mfn(0x40000)
READ, WRITE, FETCH = Access.READ, Access.WRITE, Access.FETCH
P, RW, US, A, D, NX = 1, 2, 4, 0x20, 0x40, 1 << 63
RWX = P | RW | US
R_, W_, X_ = 1, 2, 4
L4, L3, L2, L1, DATA, CODE = (Mfn(FIRST + i) for i in range(6))
HIGH = 0xFFFF_8800_0000_0000


class Tables:
    """One chain of tables for address 0; the L1 is filled by the tests."""

    def __init__(self) -> None:
        self.ram = Ram(FIRST, 16)
        self.flushes = 0
        self.dropped: list[int] = []
        self.pages: list[int] = []
        self.walker = PageWalker(self.ram, self._flushed, self.dropped.append, self.pages.append)
        self.walker.root_maddr = L4 << 12
        self.set(L4, 0, L3, RWX)
        self.set(L3, 0, L2, RWX)
        self.set(L2, 0, L1, RWX)

    def _flushed(self) -> None:
        self.flushes += 1

    def set(self, table: int, slot: int, mfn: int, flags: int) -> None:
        self.ram.write_u64((table << 12) + 8 * slot, mfn << 12 | flags)

    def get(self, table: int, slot: int) -> int:
        return self.ram.read_u64((table << 12) + 8 * slot) & (0xFFF | NX)

    def error(self, vaddr: int, access: Access) -> int:
        assert self.walker.translate(vaddr, access) is None
        assert self.walker.lookup(vaddr, access) is None
        return self.walker.error_code


@pytest.fixture
def tables() -> Tables:
    return Tables()


def test_slots() -> None:
    vaddr = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12
    assert [table_slot(vaddr, level) for level in (4, 3, 2, 1)] == [1, 2, 3, 4]
    assert table_slot(0xFFFF_8000_0000_0000, 4) == 256


def test_a_mapped_page(tables: Tables) -> None:
    tables.set(L1, 5, DATA, RWX)
    assert tables.walker.lookup(0x5678, WRITE) == DATA << 12 | 0x678
    assert [tables.get(t, s) & A for t, s in ((L4, 0), (L3, 0), (L2, 0), (L1, 5))] == [0] * 4  # only looked at
    assert tables.walker.translate(0x5000, READ) == (DATA << 12, R_)  # clean: a store must be seen first
    assert tables.get(L1, 5) == RWX | A
    assert [tables.get(t, 0) & A for t in (L4, L3, L2)] == [A] * 3
    assert tables.walker.translate(0x5000, WRITE) == (DATA << 12, R_ | W_)
    assert tables.get(L1, 5) == RWX | A | D
    assert tables.walker.translate(0x5000, READ) == (DATA << 12, R_ | W_)
    assert not tables.get(L2, 0) & D


@pytest.mark.parametrize("level", [4, 3, 2, 1])
@pytest.mark.parametrize(
    ("flags", "wrong", "code"),
    [
        (RW | US, READ, PF_USER),
        (RW | US, WRITE, PF_USER | PF_WRITE),
        (0, FETCH, PF_USER | PF_INSTR),
        (P | US, WRITE, PF_PRESENT | PF_USER | PF_WRITE),
        (P | RW, READ, PF_PRESENT | PF_USER),
        (P | RW, FETCH, PF_PRESENT | PF_USER | PF_INSTR),
        (RWX | NX, FETCH, PF_PRESENT | PF_USER | PF_INSTR),
    ],
)
def test_faults(tables: Tables, level: int, flags: int, wrong: Access, code: int) -> None:
    tables.set(L1, 0, DATA, RWX)
    table = (L1, L2, L3, L4)[level - 1]
    target = (DATA, L1, L2, L3)[level - 1]
    tables.set(table, 0, target, flags)
    assert tables.error(0, wrong) == code
    assert tables.get(L1, 0) & (A | D) == 0
    tables.set(table, 0, target, RWX)
    tables.walker.flush()
    assert tables.walker.translate(0, wrong) is not None


def test_a_page_that_is_not_there_is_told_before_a_missing_permission(tables: Tables) -> None:
    tables.set(L2, 0, L1, P)
    assert tables.error(0, WRITE) == PF_USER | PF_WRITE


def test_non_canonical_addresses_and_bad_roots_never_raise(tables: Tables) -> None:
    tables.set(L1, 0, DATA, RWX)
    for vaddr in (1 << 47, 1 << 48, HIGH - (1 << 50), (1 << 63) | 0x1000):
        assert tables.error(vaddr, READ) in (PF_USER, 0)
    for root in (0, (FIRST - 1) << 12, (FIRST + 16) << 12, 1 << 51):
        assert tables.walker.lookup(0, READ, root) is None
    tables.walker.root_maddr = 0
    assert tables.walker.entries(0) == []


def test_garbage_in_the_tables_never_raises(tables: Tables) -> None:
    rng = random.Random(5)
    for _ in range(2000):
        tables.walker.flush()
        for table in (L4, L3, L2, L1):
            mfn = rng.choice([L4, L3, L2, L1, DATA, FIRST - 1, FIRST + 16, (1 << 40) - 1, 0])
            tables.set(table, 0, mfn, rng.choice([RWX, RWX, P, rng.getrandbits(12)]))
        access = rng.choice([READ, WRITE, FETCH])
        found = tables.walker.translate(0, access)
        looked = tables.walker.lookup(0, access)
        assert (found is None) == (looked is None)
        assert found is None or found[0] == looked
        assert 1 <= len(tables.walker.entries(0)) <= 4


def test_entries_end_with_the_first_that_is_not_present(tables: Tables) -> None:
    tables.set(L1, 1, DATA, RWX)
    assert [entry[:2] for entry in tables.walker.entries(0x1000)] == [(4, 0), (3, 0), (2, 0), (1, 1)]
    assert tables.walker.entries(0x1000)[3] == (1, 1, DATA << 12 | RWX)
    assert tables.walker.entries(0x2000)[-1] == (1, 2, 0)
    assert tables.walker.entries(1 << 30) == [(4, 0, L3 << 12 | RWX), (3, 1, 0)]


def test_another_root(tables: Tables) -> None:
    tables.set(L1, 0, DATA, RWX)
    tables.set(CODE, 3, L3, RWX)
    assert tables.walker.lookup(3 << 39, READ) is None
    assert tables.walker.lookup(3 << 39, READ, CODE << 12) == DATA << 12


# -- what guest time is derived from -----------------------------------------------------------------------------------
def test_each_entry_counts_when_it_is_first_read_or_written_through(tables: Tables) -> None:
    tables.set(L1, 0, CODE, RWX)
    tables.set(L1, 1, DATA, RWX)
    walker = tables.walker
    assert walker.translate(0, FETCH) == (CODE << 12, X_)  # so that the first read is seen
    assert walker.first_fills == 0
    assert walker.translate(0, READ) == (CODE << 12, R_ | X_)
    assert walker.first_fills == 1
    walker.translate(0, WRITE)
    walker.translate(0, FETCH)
    assert walker.first_fills == 1
    walker.entry_changed(L1 << 12)
    walker.translate(0, READ)
    walker.translate(0x1000, READ)
    assert walker.first_fills == 3
    walker.flush()
    walker.translate(0, FETCH)
    walker.translate(0, READ)
    assert walker.first_fills == 4


def test_what_the_engine_needs_dropped_counts_once(tables: Tables) -> None:
    for slot in range(3):
        tables.set(L1, slot, CODE, RWX)
    walker = tables.walker
    walker.translate(0, WRITE)
    walker.translate(0x1000, WRITE)
    walker.translate(0x2000, FETCH)  # drops both: stores to code are to be seen
    assert tables.flushes == 1
    walker.translate(0, WRITE)
    walker.translate(0x1000, WRITE)
    assert walker.first_fills == 2


# -- execute permission ------------------------------------------------------------------------------------------------
def test_execute_is_granted_to_what_is_fetched_from(tables: Tables) -> None:
    tables.set(L1, 0, CODE, RWX)
    assert tables.walker.translate(0, READ) == (CODE << 12, R_)
    assert tables.ram.code_frames == set()
    assert tables.walker.translate(0, FETCH) == (CODE << 12, R_ | X_)
    assert tables.ram.code_frames == {CODE}
    assert tables.walker.translate(0, WRITE) == (CODE << 12, R_ | W_ | X_)  # the engine checks stores for stale code


def test_a_page_written_as_data_and_then_fetched_from_needs_a_flush(tables: Tables) -> None:
    tables.set(L1, 0, CODE, RWX)
    tables.set(L1, 1, CODE, RWX)
    tables.walker.translate(0, WRITE)
    tables.walker.translate(0x1000, FETCH)
    assert (tables.flushes, tables.pages) == (0, [0])
    assert tables.walker.translate(0, READ) == (CODE << 12, R_ | W_ | X_)


def test_code_written_through_an_alias_that_cannot_execute_is_data_again(tables: Tables) -> None:
    tables.set(L1, 0, CODE, P | US)
    tables.set(L1, 1, CODE, RWX | NX)
    tables.walker.translate(0, FETCH)
    assert tables.walker.translate(0x1000, READ) == (CODE << 12, R_)
    assert tables.walker.translate(0x1000, WRITE) == (CODE << 12, R_ | W_)
    assert (tables.dropped, tables.pages, tables.ram.code_frames) == ([CODE], [0], set())
    tables.walker.translate(0, FETCH)
    assert (tables.flushes, tables.pages) == (0, [0, 0x1000])


def test_a_frame_at_several_addresses_is_dropped_everywhere(tables: Tables) -> None:
    tables.set(L1, 0, CODE, RWX)
    tables.set(L1, 1, CODE, RWX)
    tables.set(L1, 2, CODE, RWX | A | D)
    tables.walker.translate(0, WRITE)
    tables.walker.translate(0x1000, WRITE)
    assert tables.walker.translate(0x2000, FETCH) == (CODE << 12, X_)
    assert (tables.flushes, tables.pages) == (1, [])
    assert tables.walker.is_entry_cached((L1 << 12) + 16)


def test_a_change_drops_the_pages_it_is_about(tables: Tables) -> None:
    walker = tables.walker
    tables.set(L1, 0, DATA, RWX)
    tables.set(L1, 1, DATA, RWX)
    tables.set(L2, 1, L1, RWX)  # the same table at 2 MiB
    for vaddr in (0, 0x1000, 0x201000):
        walker.translate(vaddr, READ)
    walker.entry_changed(L1 << 12)
    walker.entry_changed(L1 << 12)
    assert (tables.flushes, tables.pages) == (0, [0])
    walker.entry_changed((L1 << 12) + 8)  # one entry, two pages
    assert (tables.flushes, tables.pages) == (1, [0])
    walker.upper_entry_changed(L2 << 12)
    assert tables.flushes == 1
    walker.translate(0, READ)
    walker.upper_entry_changed((L2 << 12) + 8)
    assert tables.flushes == 1
    walker.upper_entry_changed(L2 << 12)
    assert tables.flushes == 2


def test_a_switch_of_roots_keeps_what_both_share(tables: Tables) -> None:
    walker = tables.walker
    other = Mfn(FIRST + 8)
    tables.set(L4, 5, L3, RWX)
    tables.set(other, 5, L3, RWX | A)
    tables.set(L1, 0, DATA, RWX)
    tables.set(L1, 1, CODE, RWX)
    low, high = 0, 5 << 39
    walker.translate(low + 0x1000, READ)
    walker.translate(high, READ)
    walker.load_root(other << 12)
    assert (tables.flushes, tables.pages) == (0, [0x1000])
    assert walker.is_entry_cached(L1 << 12)
    assert not walker.is_entry_cached((L1 << 12) + 8)
    assert walker.translate(low, READ) is None
    walker.upper_entry_changed((other << 12) + 8 * 5)  # it leads there now
    assert tables.flushes == 1


def test_a_switch_away_from_many_pages_empties_the_tlb(tables: Tables) -> None:
    for slot in range(200):
        tables.set(L1, slot, DATA, RWX)
        tables.walker.translate(slot << 12, READ)
    tables.walker.load_root((FIRST + 8) << 12)
    assert (tables.flushes, tables.pages) == (1, [])
    assert tables.walker.is_empty


# -- what is remembered ------------------------------------------------------------------------------------------------
def test_what_may_be_in_the_tlb_is_known(tables: Tables) -> None:
    walker = tables.walker
    tables.set(L1, 0, DATA, RWX)
    at = L1 << 12
    assert walker.is_empty
    assert not walker.is_entry_cached(at)
    walker.translate(0, READ)
    assert walker.is_entry_cached(at)
    assert not walker.is_entry_cached(at + 8)
    walker.flush()
    assert walker.is_empty
    assert walker.translate(0x1000, READ) is None
    assert not walker.is_empty  # how the L1 is reached is remembered


def test_refills_count_no_time_and_make_a_small_tlb_grow(tables: Tables) -> None:
    walker = tables.walker
    for slot in range(200):
        tables.set(L1, slot, DATA, RWX | A | D)
        walker.translate(slot << 12, READ)
    assert walker.first_fills == 200
    for _ in range(4):
        for slot in range(200):
            walker.translate(slot << 12, READ)
    assert walker.first_fills == 200
    assert tables.flushes == 1
    walker.flush()
    walker.translate(0, READ)
    assert walker.first_fills == 201
