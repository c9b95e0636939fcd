"""Whole L1 tables that map frames in a row are taken at once: the counts must be those of one entry after the other."""

from __future__ import annotations

import pytest

from hypercalls.errors import XenError
from pvemu.frames import Mfn
from pvemu.hypervisor.page_types import PageTypes
from pvemu.memory.frame_table import FrameTable, Owner, PageType
from pvemu.memory.ram import Ram

FIRST, FRAMES = Mfn(0x1000), 1536
TABLE, OTHER, MAPPED = FIRST, FIRST + 1, FIRST + 512
RW, RO = 0x63, 0x61


def frames_after(
    entries: list[int], *, at_once: bool, monkeypatch: pytest.MonkeyPatch, is_kept: bool = True
) -> list[object]:
    """Two tables of the same entries validated, one of them dropped (or both); what the frame table holds then. The CPU
    has used some of the entries meanwhile.
    """
    ram, frames = Ram(FIRST, FRAMES), FrameTable(FIRST, FRAMES)
    frames.assign(FIRST, FRAMES, Owner.GUEST)
    types = PageTypes(ram, frames, {})
    if not at_once:
        monkeypatch.setattr(types.l1_tables, "_promote_uniform", lambda entries, start: False)
        monkeypatch.setattr(types.l1_tables, "_demote_uniform", lambda entries: False)
        monkeypatch.setattr(types.l1_tables, "_demote_entries", lambda entries: list(map(types.put_from_l1e, entries)))
    answers: list[object] = []
    for table in (TABLE, OTHER):
        for slot, entry in enumerate(entries):
            ram.write_u64((table << 12) + 8 * slot, entry)
        try:
            types.get_page_and_type(table, PageType.L1)
            answers.append("taken")
        except XenError as refusal:
            answers.append(refusal.errno)
    if answers[-1] == "taken":
        for slot in range(0, 512, 7):
            ram.write_u64((OTHER << 12) + 8 * slot, ram.read_u64((OTHER << 12) + 8 * slot) | 0x60)  # accessed, dirty
        types.put_page_and_type(OTHER)
        if not is_kept:
            types.put_page_and_type(TABLE)
    return [*answers, bytes(frames.type), frames.type_count.tolist(), frames.refs.tolist(), ram.read(TABLE << 12, 8192)]


def in_a_row(flags: int, first: int = MAPPED, count: int = 512) -> list[int]:
    return [((first + i) << 12) | flags for i in range(count)]


@pytest.mark.parametrize("entries", [
    in_a_row(RW), in_a_row(RO), in_a_row(0x67 | 1 << 52), in_a_row(0x27), in_a_row(RW | 1 << 63),
    [*in_a_row(RW)[:-1], 0], [*in_a_row(RW)[:-1], in_a_row(RO)[-1]], in_a_row(RW, FIRST), in_a_row(RO, FIRST),
    in_a_row(RW, FIRST + FRAMES - 511), in_a_row(RW | 0x10), in_a_row(RW & ~1), [0] * 512, in_a_row(RW, MAPPED + 3),
])  # fmt: skip
@pytest.mark.parametrize("is_kept", [True, False])
def test_at_once_is_as_one_by_one(entries: list[int], is_kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = frames_after(entries, at_once=True, monkeypatch=monkeypatch, is_kept=is_kept)
    one_by_one = frames_after(entries, at_once=False, monkeypatch=monkeypatch, is_kept=is_kept)
    assert at_once == one_by_one
