"""The registers gdb sees: its own names and order for the target description, for both widths."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvemu.frames import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.machine import Machine

__all__ = ["RegisterMap"]

_GENERAL_64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_GENERAL_32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_X87 = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_CR0, _CR4 = 0x8005_0033, 0x660  # what Xen's crash text shows of a PV guest
_FLAGS = (
    ("CF", 0), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11), ("NT", 14),
    ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21),
)  # fmt: skip


class _Register(NamedTuple):
    name: str
    bits: int
    type: str
    feature: str
    group: str = ""


def root_of(machine: Machine) -> int:
    """Where the tables of ``machine.vcpu`` begin, which may be one that is only looked at."""
    vcpu = machine.vcpu
    if vcpu is machine.sched.current:
        return machine.walker.root_maddr
    is_user = bool(vcpu.parked.guest_root_user) and not vcpu.kernel_mode
    return (vcpu.parked.guest_root_user if is_user else vcpu.parked.guest_root) << PAGE_SHIFT


class RegisterMap:
    """Registers of a guest of ``bits`` in gdb's order."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        wide = bits == 64
        core = "org.gnu.gdb.i386.core"
        pointers = {"rbp", "rsp", "esp", "ebp"}
        registers = [
            _Register(name, bits, "data_ptr" if name in pointers else f"int{bits}", core)
            for name in (_GENERAL_64 if wide else _GENERAL_32)
        ]
        registers.append(_Register("rip" if wide else "eip", bits, "code_ptr", core))
        registers.append(_Register("eflags", 32, "i386_eflags", core))
        registers += [_Register(name, 32, "int32", core) for name in _SEGMENTS]
        registers += [_Register(f"st{n}", 80, "i387_ext", core) for n in range(8)]
        registers += [_Register(name, 32, "int", core, "float") for name in _X87]
        sse = "org.gnu.gdb.i386.sse"
        self._vectors = 16 if wide else 8
        registers += [_Register(f"xmm{n}", 128, "vec128", sse) for n in range(self._vectors)]
        registers.append(_Register("mxcsr", 32, "i386_mxcsr", sse, "vector"))
        if wide:
            segments = "org.gnu.gdb.i386.segments"
            registers += [_Register(name, 64, "int", segments) for name in ("fs_base", "gs_base")]
        registers += [_Register(name, bits, f"int{bits}", "org.pvemu.control") for name in ("cr0", "cr2", "cr3", "cr4")]
        self.registers = registers

    # -- target description --------------------------------------------------------------------------------------------
    def target_xml(self) -> str:
        """What qXfer:features:read:target.xml gives."""
        architecture = "i386:x86-64" if self.bits == 64 else "i386"
        parts = ['<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">']
        parts.append(f"<architecture>{architecture}</architecture>")
        feature = ""
        for number, register in enumerate(self.registers):
            if register.feature != feature:
                parts.append("</feature>" if feature else "")
                feature = register.feature
                parts.append(f'<feature name="{feature}">' + self._types(feature))
            group = f' group="{register.group}"' if register.group else ""
            name, bits, type_ = register.name, register.bits, register.type
            parts.append(f'<reg name="{name}" bitsize="{bits}" type="{type_}" regnum="{number}"{group}/>')
        return "".join([*parts, "</feature></target>"])

    @staticmethod
    def _types(feature: str) -> str:
        if feature.endswith("core"):
            fields = "".join(f'<field name="{name}" start="{bit}" end="{bit}"/>' for name, bit in _FLAGS)
            return f'<flags id="i386_eflags" size="4">{fields}</flags>'
        if feature.endswith("sse"):
            return (
                '<vector id="v8i16" type="int16" count="8"/><vector id="v4i32" type="int32" count="4"/>'
                '<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>'
                '<vector id="v16i8" type="int8" count="16"/><vector id="v2i64" type="int64" count="2"/>'
                '<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>'
                '<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>'
                '<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>'
                '<field name="uint128" type="uint128"/></union>'
                '<flags id="i386_mxcsr" size="4"><field name="IE" start="0" end="0"/></flags>'
            )
        return ""

    # -- values --------------------------------------------------------------------------------------------------------
    def read_all(self, machine: Machine) -> bytes:
        """The answer to `g`."""
        return b"".join(self.read(machine, number) for number in range(len(self.registers)))

    def read(self, machine: Machine, number: int) -> bytes:
        """One register, little-endian."""
        register = self.registers[number]
        value = self._value(machine, register.name)
        return (value & (1 << register.bits) - 1).to_bytes(register.bits // 8, "little")

    def _value(self, machine: Machine, name: str) -> int:
        engine = machine.engine
        special: dict[str, Callable[[], int]] = {
            "eflags": lambda: engine.read("rflags"),
            "eip": lambda: engine.read("rip"),
            "mxcsr": engine.registers.mxcsr,
            "cr0": lambda: _CR0,
            "cr2": lambda: machine.vcpu.cr2,
            "cr3": lambda: root_of(machine),
            "cr4": lambda: _CR4,
        }
        if name in special:
            return special[name]()
        if name.startswith("xmm"):
            return engine.registers.vector(int(name[3:]))
        if name.startswith("st"):
            return engine.registers.x87()[0][int(name[2:])]
        if name in _X87:
            _stack, *words = engine.registers.x87()
            return dict(zip(_X87, words, strict=False)).get(name, 0)
        return engine.read(name)

    def write(self, machine: Machine, number: int, data: bytes) -> bool:
        """Set one register; False for one that cannot be set: those that decide privilege, and floating point."""
        if not 0 <= number < len(self.registers):
            return False
        name, value = self.registers[number].name, int.from_bytes(data, "little")
        if name.startswith("xmm"):
            machine.engine.registers.set_vector(int(name[3:]), value)
        elif name in {"rip", "eip"}:
            machine.engine.write("rip", value)
        elif name in {*_GENERAL_64, *_GENERAL_32}:
            machine.engine.write(name, value)
        elif name == "eflags":
            machine.engine.write("rflags", value & 0xCD5 | machine.engine.read("rflags") & ~0xCD5)
        else:
            return False
        return True
