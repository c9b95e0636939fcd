"""The table as a whole, and every hypercall under garbage."""

from __future__ import annotations

import inspect
import random
from typing import TYPE_CHECKING

import pytest

from hypercalls.errors import XenError
from hypercalls.public import xen
from hypercalls.public.errno import ENOSYS, EPERM
from hypercalls.table import TABLE, do_ni_hypercall
from tests.hypercalls.fake_context import BASE, BOTH, SIZE, FakeContext

if TYPE_CHECKING:
    from hypercalls.abi import Abi

WIDTHS = pytest.mark.parametrize("abi", BOTH, ids=["64", "32"])

#: a little of everything a guest may pass
INTERESTING = (0, 1, 3, 4095, 4096, BASE, BASE + 1, BASE + SIZE - 8, 0x7FF0, 7, 1 << 31, (1 << 31) | 3, (1 << 32) - 1)
WIDE = (1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0xFFFF800000000000, 0x8000000000000000 | BASE)


def test_the_table_is_in_order_and_named_as_xen_names() -> None:
    assert list(TABLE) == sorted(TABLE)
    assert {number: row.name for number, row in TABLE.items()} == {
        number: name for number, name in xen.NAMES.items() if not name.startswith("arch_")
    }
    assert {row.name for row in TABLE.values() if row.handler is do_ni_hypercall} == {"tmem_op", "argo_op"}


def test_handlers_take_the_arguments_that_their_rows_say() -> None:
    for row in TABLE.values():
        parameters = list(inspect.signature(row.handler).parameters.values())[1:]
        assert len(parameters) == row.nargs, row.name
        assert row.nargs_of(64) <= row.nargs_of(32) <= 5, row.name


@WIDTHS
@pytest.mark.parametrize("number", TABLE, ids=lambda number: TABLE[number].name)
def test_garbage_gets_a_number(number: int, abi: Abi) -> None:
    rng = random.Random(f"{number} {abi.bits}")
    choices = INTERESTING + (WIDE if abi.bits == 64 else ())
    for _ in range(150):
        context = FakeContext(abi)
        context.guest.memory[:4096] = rng.randbytes(4096)
        if rng.random() < 0.5:  # small numbers reach further into the handlers
            context.guest.memory[:64] = bytes(rng.choice((0, 0, 0, 1, 2, 0xF0)) for _ in range(64))
        args = [
            rng.choice((rng.randrange(32), rng.choice(choices), rng.getrandbits(abi.bits))) & abi.long_mask
            for _ in range(6)
        ]
        if rng.random() < 0.5:
            args[1] = BASE + rng.randrange(16)
        try:
            result = TABLE[number].handler(context, *args[: TABLE[number].nargs])
        except XenError as error:
            result = -error.errno
        assert isinstance(result, int)
        assert result > -4096


@WIDTHS
def test_what_is_not_for_an_unprivileged_domain(abi: Abi) -> None:
    from hypercalls.public.errno import E2BIG, EACCES, EFAULT, EINVAL, ENODATA, EOPNOTSUPP, ESRCH

    domctl = (5).to_bytes(4, "little") + (0x15).to_bytes(4, "little")
    cases: list[tuple[str, tuple[int, ...], bytes, int]] = [
        ("platform_op", (BASE,), bytes(136), -EACCES),
        ("platform_op", (BASE,), bytes(4) + (0x03000001).to_bytes(4, "little"), -EPERM),
        ("platform_op", (0,), b"", -EFAULT),
        ("sysctl", (BASE,), bytes(4) + (0x15).to_bytes(4, "little"), -EPERM),
        ("sysctl", (BASE,), bytes(8), -EACCES),
        ("domctl", (BASE,), bytes(8), -EACCES),
        ("domctl", (BASE,), domctl + (7).to_bytes(2, "little"), -EPERM),
        ("domctl", (BASE,), domctl + (0x7FF0).to_bytes(2, "little"), -EINVAL),
        ("domctl", (BASE,), (6).to_bytes(4, "little") + domctl[4:] + b"\x09\0", -ESRCH),
        ("paging_domctl_cont", (BASE,), bytes(8), -EOPNOTSUPP),
        ("kexec_op", (0, 0), b"", -EPERM),
        ("console_io", (xen.CONSOLEIO_write, 5, BASE), b"hello", -EPERM),
        ("console_io", (xen.CONSOLEIO_read, 5, 0), b"", -EPERM),
        ("console_io", (9, 0, 0), b"", -EPERM),
        ("mca", (0,), b"", -EPERM),
        ("hypfs_op", (0,), b"", -EPERM),
        ("xsm_op", (0,), b"", -ENOSYS),
        ("xenpmu_op", (0,), b"", -EOPNOTSUPP),
        ("xenoprof_op", (17,), b"", -EPERM),
        ("xenoprof_op", (18,), b"", -EINVAL),
        ("dm_op", (0, 0, 0), b"", -ENODATA),
        ("dm_op", (0, 3, 0), b"", -E2BIG),
        ("dm_op", (0, 2, 0), b"", -EFAULT),
        ("dm_op", (0, 2, BASE), b"", -EINVAL),
        ("dm_op", (99, 2, BASE), b"", -ESRCH),
        ("hvm_op", (1, BASE), b"", -EINVAL),
        ("hvm_op", (1, 0), b"", -EFAULT),
        ("hvm_op", (99, 0), b"", -ENOSYS),
        ("tmem_op", (), b"", -ENOSYS),
        ("argo_op", (), b"", -ENOSYS),
    ]
    for name, args, memory, expected in cases:
        context = FakeContext(abi)
        context.guest.memory[: len(memory)] = memory
        assert context.hypercall(name, *args) == expected, (name, args)
        assert context.calls == []
