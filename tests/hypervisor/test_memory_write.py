"""What an instruction stores, as far as Xen does stores for a guest."""

from __future__ import annotations

import pytest

from pvemu.hypervisor.traps.emulate import decode
from pvemu.hypervisor.traps.memory_write import Store, may_modify, modifies, store_of

STORES = {
    "8807": Store(1), "668907": Store(2), "8907": Store(4), "488907": Store(8), "c60700": Store(1),  # mov
    "48c70700000000": Store(8), "a4": Store(1), "48a5": Store(8), "f3ab": Store(4), "48ab": Store(8),
    "66a5": Store(2), "a20000000000000000": Store(1), "48a30000000000000000": Store(8),
    "488707": Store(8, is_atomic=True), "8607": Store(1, is_atomic=True),  # xchg
    "48830f01": Store(8), "800f01": Store(1), "f0830f01": Store(4, is_atomic=True), "0107": Store(4),  # or, add
    "0007": Store(1), "481107": Store(8), "3107": Store(4), "ff07": Store(4), "fe0f": Store(1),  # inc, dec
    "f717": Store(4), "48f71f": Store(8), "d127": Store(4), "66c107 01": Store(2), "d227": Store(1),  # not, neg, shl
    "0fab07": Store(4, is_bit_string=True), "f0480fba2f01": Store(8, is_bit_string=True, is_atomic=True),  # bts
    "480fba3701": Store(8, is_bit_string=True), "0fbbc8": None, "0fba2701": None,  # btr, of a register, bt
    "0fa40701": Store(4), "480fad07": Store(8),  # shld, shrd
    "f0480fb10f": Store(8, is_atomic=True), "0fb00f": Store(1), "480fc107": Store(8),  # cmpxchg, xadd
    "f00fc70f": Store(8, is_atomic=True), "f0480fc70f": Store(16, is_atomic=True),  # cmpxchg8b, 16b
    "0f9207": Store(1), "480fc307": Store(8), "480f38f107": Store(8),  # setc, movnti, movbe
    "50": Store(8, is_push=True), "6a00": Store(8, is_push=True), "ff37": Store(8, is_push=True),
    "e800000000": Store(8, is_push=True), "ff17": Store(8, is_push=True),
    "8b07": None, "8907".replace("07", "c7"): None, "803f00": None, "3907": None, "8507": None, "f707 00000000": None,
    "8c1f": None, "0f7e07": None, "660fd607": None, "0f1107": None, "dd1f": None, "d93f": None, "0f0107": None,
    "0fae07": None, "0fc737": None, "6c": None,
}  # fmt: skip


@pytest.mark.parametrize("code", STORES)
def test_store_of(code: str) -> None:
    instruction = decode(bytes.fromhex(code).ljust(15, b"\x90"), 64)
    assert instruction is not None
    assert store_of(instruction) == STORES[code]


@pytest.mark.parametrize("code", STORES)
def test_what_reads_its_operand_first_passes_the_quick_look(code: str) -> None:
    """Arithmetic, bit operations and exchanges do; moves, SETcc and pushes do not."""
    raw = bytes.fromhex(code).ljust(15, b"\x90")
    instruction = decode(raw, 64)
    assert instruction is not None
    only_stores = (0x88, 0x89, 0xA2, 0xA3, 0xA4, 0xA5, 0xAA, 0xAB, 0xC6, 0xC7, 0x0F92, 0x0FC3, 0x0F38F1)
    store = STORES[code]
    expected = store is not None and not store.is_push and instruction.opcode not in only_stores
    assert modifies(instruction) == expected
    assert may_modify(raw[:4]) or not expected
    assert not may_modify(b"\x8b\x07\x90\x90")
    assert not may_modify(b"\x48\x8b\x07\x90")


def test_pushes_of_32_bits_store_as_much() -> None:
    instruction = decode(b"\x50".ljust(15, b"\x90"), 32)
    assert instruction is not None
    assert store_of(instruction) == Store(4, is_push=True)
