"""docs/walkthrough.md, "By gdb, going backwards": the same commands, with a real gdb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gdbstub.conftest import Serve

DOCUMENT = Path(__file__).parents[2] / "docs/walkthrough.md"


def commands() -> list[str]:
    """What the document has the reader type at gdb's prompt, after connecting."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text[text.index("## By gdb, going backwards") :]
    typed = re.findall(r"^\(gdb\) (.*)$", section, re.MULTILINE)
    assert typed[0].startswith("target remote ")
    return typed[1:]


def test_from_the_crash_to_the_jump(
    serve: Serve, guest: Callable[[str, str], Path], gdb: Callable[..., str]
) -> None:
    served = serve(guest("pvgrub", "grub-x86_64-xen.bin"), "--disk", guest("walkthrough", "walkthrough.img"))
    said = gdb(f"target remote {served.address}", *commands(), "kill")
    assert "Program received signal SIGSEGV" in said
    assert re.search(r"^=> 0x7ff\w+:\tjmp +\*%rbx$", said, re.MULTILINE), "the culprit"
    assert re.search(r"stage1:relocator:grub_relocator_xen_remapper_virt2\+0x21 \(copy\)", said)
    assert re.search(r"^rax +0x0 .*\nrbx +0x420000", said, re.MULTILINE)
    assert re.search(r"movabs \$0x0,%rax", said), "where the entry point went"
