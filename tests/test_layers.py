"""The six rules of docs/architecture.md, read off the import statements.

R1 imports point down only. R2 `hypercalls` imports nothing of `pvemu`. R3 `unicorn` is imported in one room. R4 the
hypervisor does not know the devices. R5 only `machine` knows everything. R6 no two modules need each other.
Type-checking imports count: a cycle that hides there is a cycle.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Who may import whom, room by room; `pvemu` itself is a name that holds nothing.
GROUND = {"pvemu", "pvemu.errors", "pvemu.frames", "pvemu.observers", "hypercalls"}
CONFIG = GROUND | {"pvemu.config"}
MACHINERY = GROUND | {"pvemu.memory", "pvemu.cpu"}
MAY_IMPORT = {
    "hypercalls": {"hypercalls"},
    "pvemu": {"pvemu"},
    "pvemu.errors": {"pvemu"},
    "pvemu.frames": {"pvemu"},
    "pvemu.observers": {"pvemu"},
    "pvemu.disk": CONFIG,
    "pvemu.config": GROUND | {"pvemu.disk"},
    "pvemu.filesystems": {"pvemu"},
    "pvemu.memory": GROUND,
    "pvemu.cpu": GROUND | {"pvemu.memory"},
    "pvemu.hypervisor": MACHINERY | CONFIG,
    "pvemu.builder": MACHINERY | CONFIG | {"pvemu.disk"},
    "pvemu.devices": MACHINERY | CONFIG | {"pvemu.disk", "pvemu.hypervisor"},
    "pvemu.debug": MACHINERY
    | CONFIG
    | {"pvemu.disk", "pvemu.filesystems", "pvemu.hypervisor", "pvemu.builder", "pvemu.devices"},
    "pvemu.strict": MACHINERY | CONFIG | {"pvemu.disk", "pvemu.hypervisor", "pvemu.builder", "pvemu.devices"},
    "pvemu.mkimage": {"pvemu", "pvemu.errors"},
    "pvemu.xlcfg": CONFIG | {"pvemu.disk"},
}
EVERYTHING_BELOW = {*MAY_IMPORT} - {"pvemu.mkimage", "pvemu.xlcfg"}
MAY_IMPORT["pvemu.machine"] = EVERYTHING_BELOW
MAY_IMPORT["pvemu.testing"] = EVERYTHING_BELOW | {"pvemu.machine", "pvemu.mkimage"}
MAY_IMPORT["pvemu.trace"] = EVERYTHING_BELOW | {"pvemu.machine"}
MAY_IMPORT["pvemu.xl"] = EVERYTHING_BELOW | {"pvemu.machine", "pvemu.testing", "pvemu.xlcfg"}
MAY_IMPORT["pvemu.scenario"] = EVERYTHING_BELOW | {"pvemu.machine", "pvemu.mkimage", "pvemu.testing"}
MAY_IMPORT["pvemu.control"] = EVERYTHING_BELOW | {"pvemu.machine", "pvemu.testing"}
MAY_IMPORT["pvemu.monitor"] = MAY_IMPORT["pvemu.control"] | {"pvemu.control"}
MAY_IMPORT["pvemu.gdbstub"] = {"pvemu", "pvemu.errors", "pvemu.control", "pvemu.monitor"}
MAY_IMPORT["pvemu.cli"] = EVERYTHING_BELOW | {
    "pvemu.machine", "pvemu.mkimage", "pvemu.scenario", "pvemu.testing", "pvemu.trace", "pvemu.xl", "pvemu.xlcfg",
    "pvemu.control",
    "pvemu.monitor", "pvemu.gdbstub",
}  # fmt: skip

ENGINE = "pvemu.cpu.unicorn"
ABOVE_THE_MACHINE = {"pvemu.machine", "pvemu.testing", "pvemu.cli"}
# The table's row type may be named below; the table itself is handed down by the machine.
ONLY_FROM_THE_MACHINE = {ENGINE, "hypercalls.table.TABLE"}


class Import(NamedTuple):
    """`module`, at `line`, imports `target` (a module, or a name in one)."""

    module: str
    line: int
    target: str


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path) -> list[Import]:
    """Every import below the two packages, relative ones resolved, wherever in a module it stands."""
    found = []
    for file in sorted([*root.glob("pvemu/**/*.py"), *root.glob("hypercalls/**/*.py")]):
        module = module_name(file, root)
        package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if isinstance(node, ast.Import):
                found += [Import(module, node.lineno, name.name) for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                found += [Import(module, node.lineno, f"{origin}.{name.name}") for name in node.names]
    return found


def room(name: str) -> str:
    """The room of a module, or of a name in one: `pvemu.<room>`, or the package itself for what has no room."""
    parts = name.split(".")
    if parts[0] == "pvemu" and len(parts) > 1:
        return f"pvemu.{parts[1]}" if f"pvemu.{parts[1]}" in MAY_IMPORT else name
    return parts[0]


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def violations(root: Path) -> list[str]:
    broken = []
    for module, line, target in imports(root):
        where = f"{module}:{line}: imports {target}"
        if is_within(target, "unicorn") and not is_within(module, ENGINE):
            broken.append(f"R3 {where}, which only {ENGINE} may")
        if target.split(".")[0] not in {"pvemu", "hypercalls"}:
            continue
        own, other = room(module), room(target)
        if own not in MAY_IMPORT:
            broken.append(f"R1 {where}, and {own} is no room that docs/architecture.md knows")
        elif other != own and other not in MAY_IMPORT[own]:
            rule = (
                "R2" if own == "hypercalls" else "R4" if (own, other) == ("pvemu.hypervisor", "pvemu.devices") else "R1"
            )
            broken.append(f"{rule} {where}, which is not below {own}")
        for guarded in ONLY_FROM_THE_MACHINE:
            same_room = own == room(guarded)
            whole_table = guarded.startswith("hypercalls") and target == "hypercalls.table"
            if (is_within(target, guarded) or whole_table) and own not in ABOVE_THE_MACHINE and not same_room:
                broken.append(f"R5 {where}, which only the machine may")
    return broken


def circles(root: Path) -> list[set[str]]:
    """R6: sets of modules each of which imports, over however many steps, all others of the set."""
    found = imports(root)
    modules = {entry.module for entry in found}
    below: dict[str, set[str]] = {module: set() for module in modules}
    for module, _, target in found:
        origin = target if target in modules else target.rpartition(".")[0]
        if origin in modules and origin != module:
            below[module].add(origin)
    # What has nothing below it, or nothing above it, is in no circle; the rest is in one, or between two.
    while ends := {m for m in below if not below[m] or not any(m in others for others in below.values())}:
        below = {module: others - ends for module, others in below.items() if module not in ends}
    return [{module, *others} for module, others in below.items()]


def test_the_tree_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_no_two_modules_need_each_other() -> None:
    assert circles(ROOT) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    lines = {
        "a": "from pvemu.disk.b import B",
        "b": "if TYPE_CHECKING:\n    from pvemu.disk import c",
        "c": "def f():\n    import pvemu.disk.a",
        "above": "from pvemu.disk import a, below",
        "below": "import struct",
    }
    (tmp_path / "pvemu" / "disk").mkdir(parents=True)
    for name, text in lines.items():
        (tmp_path / "pvemu" / "disk" / f"{name}.py").write_text(text + "\n", encoding="utf-8")
    named = {name.rpartition(".")[2] for circle in circles(tmp_path) for name in circle}
    assert named == {"a", "b", "c"}


def test_unicorn_is_imported_where_the_engine_is() -> None:
    users = {entry.module for entry in imports(ROOT) if is_within(entry.target, "unicorn")}
    assert users
    assert all(is_within(user, ENGINE) for user in users)


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("pvemu/devices/console.py", "from pvemu.machine import Machine", "R1"),
        ("pvemu/memory/ram.py", "import pvemu.hypervisor.domain", "R1"),
        ("pvemu/disk/raw.py", "from ..devices import ring", "R1"),
        ("pvemu/disk/raw.py", "def f():\n    from pvemu import machine", "R1"),
        ("pvemu/memory/ram.py", "from pvemu.cpu.paging import PageWalker", "R1"),
        ("pvemu/cpu/paging.py", "from pvemu.hypervisor.traps.traps import Traps", "R1"),
        ("pvemu/frames.py", "from pvemu.memory.ram import Ram", "R1"),
        ("pvemu/machine.py", "from pvemu.cli import main", "R1"),
        ("pvemu/mkimage/image_builder.py", "from pvemu.disk import raw", "R1"),
        ("pvemu/machine.py", "import pvemu.mkimage", "R1"),
        ("pvemu/gizmo/thing.py", "from pvemu import errors", "R1"),
        ("hypercalls/mmu_update.py", "from pvemu.frames import Mfn", "R2"),
        ("hypercalls/mmu_update.py", "if TYPE_CHECKING:\n    from pvemu import frames", "R2"),
        ("pvemu/machine.py", "import unicorn", "R3"),
        ("pvemu/cpu/paging.py", "from unicorn.x86_const import UC_X86_REG_RAX", "R3"),
        ("pvemu/hypervisor/domain.py", "from pvemu.devices import console", "R4"),
        ("pvemu/hypervisor/domain.py", "from pvemu.cpu.unicorn.engine import Engine", "R5"),
        ("pvemu/hypervisor/hypercall.py", "from hypercalls.table import TABLE", "R5"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str, rule: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n", encoding="utf-8")
    found = violations(tmp_path)
    assert [entry[:2] for entry in found] == [rule]
    assert module_name(path, tmp_path) in found[0]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "pvemu/machine.py",
            "from pvemu.cpu.unicorn.engine import Engine\nfrom hypercalls.table import TABLE\nfrom pvemu import debug",
        ),
        ("pvemu/cpu/unicorn/hooks.py", "import unicorn"),
        (
            "pvemu/devices/blkback.py",
            "from . import ring\nfrom pvemu.disk import raw\nfrom hypercalls.public.io import blkif",
        ),
        ("pvemu/hypervisor/mm.py", "from pvemu.memory.ram import Ram\nfrom pvemu.cpu.exits import Exit"),
        ("pvemu/cli/image.py", "from pvemu.mkimage import build\nfrom pvemu.machine import Machine"),
        ("hypercalls/table.py", "from . import mmu_update\nfrom hypercalls.public import xen\nimport struct"),
    ],
)
def test_what_the_rules_allow_passes(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n", encoding="utf-8")
    assert violations(tmp_path) == []
