"""The declared layouts against what a C compiler said of Xen's own headers (tools/layout_probe wrote it down)."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

from hypercalls import public
from hypercalls.abi import ABI32, ABI64, Abi
from hypercalls.declare import fields_of
from hypercalls.describe import declared_structures
from hypercalls.public import arch_x86, xen
from hypercalls.public.io import blkif

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "layout.json").read_text())
STRUCTURES = declared_structures()
WIDTHS = [pytest.param(ABI64, id="64"), pytest.param(ABI32, id="32")]


def test_every_declared_structure_was_probed_and_no_other() -> None:
    assert set(STRUCTURES) == set(RECORD["structures"]), "run tools/layout_probe"
    assert RECORD["headers"].startswith("libxen-dev 4.17")


@pytest.mark.parametrize("abi", WIDTHS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_layout_is_that_of_the_headers(name: str, abi: Abi) -> None:
    cls, recorded = STRUCTURES[name], RECORD["structures"][name][str(abi.bits)]
    if recorded is None:  # of the other width alone
        assert abi.sizeof(cls) == 0
        return
    assert (abi.sizeof(cls), abi.alignof(cls)) == (recorded["size"], recorded["align"])
    declared = {
        field.name: [abi.offsetof(cls, field.name), abi.fieldsize(cls, field.name)]
        for field in fields_of(cls)
        if field.only in (None, abi.bits) and not field.name.startswith("_")
    }
    assert declared == recorded["fields"]


#: constants that no header has under these names: two values of one name, Xen's own errors, ours
NOT_IN_HEADERS = re.compile(r"\w+_X86_(64|32)|EINTR|ERESTART|XEN_COMMANDLINE_LEN|RING_IDX_MASK|SRING_HEADER_SIZE")


def test_constants_are_those_of_the_headers() -> None:
    compared = 0
    for info in pkgutil.walk_packages(public.__path__, public.__name__ + "."):
        recorded = RECORD["constants"].get(info.name.removeprefix(public.__name__ + "."), {})
        for name, value in vars(importlib.import_module(info.name)).items():
            if isinstance(value, int) and not NOT_IN_HEADERS.fullmatch(name):
                assert name in recorded, f"{info.name}: run tools/layout_probe"
                assert value in (recorded[name], recorded[name] + (1 << 64)), f"{info.name}.{name}"
                compared += 1
    assert compared > 500


@pytest.mark.parametrize(
    ("cls", "size64", "size32"),
    [
        (xen.start_info, 1168, 1112),
        (xen.shared_info, 3136, 2344),
        (xen.mmuext_op, 24, 12),
        (blkif.blkif_request, 112, 108),
        (arch_x86.vcpu_guest_context, 5168, 2800),
    ],
)
def test_landmarks(cls: type, size64: int, size32: int) -> None:
    assert (ABI64.sizeof(cls), ABI32.sizeof(cls)) == (size64, size32)
