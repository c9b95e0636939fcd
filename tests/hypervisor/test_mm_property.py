"""Random hypercalls, sane and insane: no count is ever wrong, nothing stale stays in the TLB, no table is writable."""

from __future__ import annotations

import random

import pytest

from hypercalls.errors import XenError
from hypercalls.public import grant_table as gt
from pvemu.cpu.exits import Access
from pvemu.frames import PAGE_SHIFT
from pvemu.hypervisor.grant_table import GrantRefusedError
from tests.hypervisor.world import DOMID, END, FIRST, HEAP, RWX, P, World, pte

VADDRS = [slot << 12 for slot in range(16)] + [1 << 21, 1 << 30, 1 << 39, 0xFFFF_8000_0000_0000]


class Player:
    """Makes one random request at a time; ``sane`` is the share that are meant to work."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.handles: list[tuple[int, int, int]] = []
        self.backend: list[int] = []
        self.refusals = 0

    def mfn(self) -> int:
        r = self.random
        if r.random() < 0.03:
            return r.choice([0, FIRST, FIRST + HEAP - 1, END, END + 5, 0x3FFFF, (1 << 40) - 1, self.world.shared_info])
        return r.randrange(FIRST + HEAP + 30, END)

    def spare(self) -> int:
        """A frame to give away: never the tables that ``do_mend`` needs."""
        mfn = self.mfn()
        return self.world.mfns[30] if mfn in self.world.mfns[:4] else mfn

    def table_mfn(self) -> int:
        """Often one of the first eight frames: the tables."""
        return self.random.choice(self.world.mfns[:12]) if self.random.random() < 0.8 else self.mfn()

    def entry(self) -> int:
        r = self.random
        mfn = self.table_mfn() if r.random() < 0.4 else self.mfn()
        flags = r.choice([0, P, RWX, P | 4, RWX, RWX | 1 << 63, RWX | 0x60, P | 0x100, r.getrandbits(12), RWX | 0x80])
        return pte(mfn, flags)

    def slot(self) -> int:
        r = self.random
        return 0 if r.random() < 0.05 else r.choice([1, 1, 2, 3, r.randrange(512), 256, 511])

    def step(self) -> None:
        name = self.random.choice(STEPS)
        try:
            getattr(self, name)()
        except XenError:
            self.refusals += 1

    # -- requests ----------------------------------------------------------------------------------------------------
    def do_update(self) -> None:
        at = (self.table_mfn() << PAGE_SHIFT) + 8 * self.slot()
        self.world.mm.mmu_update(at | self.random.choice([0, 0, 0, 1, 2, 3]), self.entry())

    def do_update_va(self) -> None:
        self.world.mm.update_va_mapping(self.random.choice(VADDRS), self.entry(), self.random.randrange(4))

    def do_pin(self) -> None:
        self.world.mm.pin_table(self.random.randrange(1, 5), self.table_mfn())

    def do_unpin(self) -> None:
        self.world.mm.unpin_table(self.table_mfn())

    def do_root(self) -> None:
        self.world.mm.new_baseptr(self.table_mfn() if self.random.random() < 0.3 else self.world.mfns[0])

    def do_mend(self) -> None:
        """Back to a tree that maps something."""
        l4, l3, l2, l1 = self.world.mfns[:4]
        mm = self.world.mm
        for table, target in ((l2, l1), (l3, l2), (l4, l3)):
            mm.mmu_update(table << PAGE_SHIFT, pte(target, RWX))
        mm.new_baseptr(l4)

    def do_user_root(self) -> None:
        self.world.mm.new_user_baseptr(self.random.choice([0, self.table_mfn()]))

    def do_pages(self) -> None:
        if self.random.random() < 0.5:
            self.world.mm.clear_page(self.mfn())
        else:
            self.world.mm.copy_page(self.mfn(), self.mfn())

    def do_decrease(self) -> None:
        self.world.mm.decrease_reservation(self.spare(), self.random.choice([0, 0, 0, 1, 10]))

    def do_populate(self) -> None:
        self.world.mm.populate_physmap(self.random.choice([3, 1 << 63, (1 << 64) - 1]), self.random.choice([0, 0, 1]))

    def do_exchange(self) -> None:
        self.world.mm.exchange_frames([self.spare() for _ in range(2)], self.random.choice([0, 1]), 2)

    def do_gdt(self) -> None:
        frames = [self.mfn() for _ in range(self.random.randrange(4))]
        self.world.tables.set_gdt(frames, 512 * len(frames))

    def do_descriptor(self) -> None:
        self.world.tables.update_descriptor(self.mfn() << 12 | 8, 0x00CF_9300_0000_FFFF)

    def do_ldt(self) -> None:
        self.world.mm.set_ldt(self.random.choice(VADDRS[:16]), self.random.choice([0, 8, 8192]))
        self.world.tables.page_at(0xFFFF_8200_0001_0000, Access.READ)

    def do_touch(self) -> None:
        for _ in range(4):
            self.world.touch(self.random.choice(VADDRS[:19]), self.random.choice(list(Access)))

    def do_grant_entry(self) -> None:
        ref, domid = self.random.randrange(8, 12), self.random.choice([0, DOMID])
        flags = self.random.choice([1, 1, 5, 2, 0])
        self.world.grants.shared.put_reserved(ref, (flags, domid, self.mfn() & 0xFFFF_FFFF))

    def do_grant_version(self) -> None:
        self.world.grants.set_version(self.random.choice([1, 2]))

    def do_backend_map(self) -> None:
        ref = self.random.randrange(8, 13)
        try:
            self.world.grants.map_for_backend(ref, self.random.random() < 0.5)
        except GrantRefusedError:
            return
        self.backend.append(ref)

    def do_backend_unmap(self) -> None:
        if self.backend:
            self.world.grants.unmap_for_backend(self.backend.pop(self.random.randrange(len(self.backend))))

    def do_map(self) -> None:
        flags = self.random.randrange(32)
        addr = self.random.choice(VADDRS)
        if flags & gt.GNTMAP_contains_pte:
            addr = (self.table_mfn() << 12) + self.random.choice([0, 8, 4])
        status, handle, bus = self.world.grants.map_grant_ref(addr, flags, self.random.randrange(8, 13), DOMID)
        if status == 0:
            self.handles.append((addr, bus, handle))

    def do_unmap(self) -> None:
        if self.handles:
            addr, bus, handle = self.random.choice(self.handles)
            if self.random.random() < 0.2:
                self.world.grants.unmap_and_replace(addr, self.random.choice(VADDRS), handle)
            else:
                self.world.grants.unmap_grant_ref(addr, self.random.choice([0, bus, bus + 4096]), handle)

    def do_copy(self) -> None:
        sides = [
            (self.random.random() < 0.5, self.random.choice([self.mfn(), 8, 9, 600]), self.random.choice(
                [0x7FF0, DOMID, 0, 5]), self.random.randrange(4200)) for _ in range(2)
        ]  # fmt: skip
        copies = self.world.grants.begin_copy()
        copies.copy(sides[0], sides[1], self.random.randrange(200))
        copies.release()

    def do_transfer(self) -> None:
        if self.random.random() < 0.2:
            self.world.grants.transfer(self.spare(), self.random.choice([DOMID, 0, 9]), self.random.randrange(8, 600))


STEPS = [name for name in vars(Player) if name.startswith("do_")]
STEPS += ["do_update"] * 12 + ["do_touch"] * 4 + ["do_mend"] * 3 + ["do_populate"] * 2


def play(seed: int, steps: int) -> tuple[World, Player]:
    world = World()
    entries = {slot: pte(world.mfns[20 + slot], RWX) for slot in range(8)}
    entries |= {8 + slot: pte(world.mfns[slot], P) for slot in range(4)}  # the tables, read-only
    world.boot(entries)
    world.audit()
    player = Player(world, seed)
    for _ in range(steps):
        player.step()
        world.audit()
    return world, player


@pytest.mark.parametrize("seed", range(6))
def test_counts_hold_under_random_requests(seed: int) -> None:
    world, player = play(seed, 500)
    assert 50 < player.refusals < 450
    assert world.mm.guest_root
