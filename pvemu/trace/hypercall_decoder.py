"""A hypercall's arguments as structures instead of pointers, before and after the call."""

from __future__ import annotations

import inspect
import struct
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.abi import ArrayCodec, BytesCodec, Codec, ScalarCodec, StructCodec
from hypercalls.errors import XenError
from hypercalls.public import errno, xen
from hypercalls.signatures import FIELD_NAMES, SIGNATURES, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hypercalls.abi import Abi
    from hypercalls.table import Row
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["Decoded", "HypercallDecoder", "result_text"]

#: Elements of an array that are shown.
_MAX_SHOWN = 16
_MAX_STRING = 64
#: Calls with different arguments that are remembered: a kernel makes most of its calls with few.
_MAX_KNOWN = 1024
#: Kinds of numbers that are addresses, frames or sets of bits.
_HEXADECIMAL = frozenset(("ulong", "u64", "xen_pfn_t", "guest_handle"))
_DOMAINS = frozenset(("dom", "domid", "remote_dom", "domain_id", "foreigndom"))
_LINEAR_ADDRESS = frozenset((
    xen.MMUEXT_INVLPG_LOCAL, xen.MMUEXT_INVLPG_MULTI, xen.MMUEXT_INVLPG_ALL, xen.MMUEXT_SET_LDT,
))  # fmt: skip
_NO_ARGUMENT = frozenset((
    xen.MMUEXT_TLB_FLUSH_LOCAL, xen.MMUEXT_TLB_FLUSH_MULTI, xen.MMUEXT_TLB_FLUSH_ALL, xen.MMUEXT_FLUSH_CACHE,
    xen.MMUEXT_FLUSH_CACHE_GLOBAL,
))  # fmt: skip
_NO_SIGNATURE = Signature({}, {})
_MMUEXT_NAMES = FIELD_NAMES["mmuext_op.cmd"]
_TWO_WORDS = struct.Struct("<QQ")
#: Structures that Xen only reads: kernels pass these by the ten thousand.
_READ_ONLY = frozenset((xen.mmu_update, xen.mmuext_op))


class Decoded(NamedTuple):
    """``command`` is the name of a multiplexer's operation, also the field ``cmd``; ``place`` are the structures read:
    field of ``fields``, plan, address, their number as shown, bytes.
    """

    command: str | None
    fields: dict[str, object]
    place: tuple[str, _Plan, int, int, bytes] | None


class _Argument(NamedTuple):
    """How an argument is shown: ``names`` of its values, other values as ``is_plain`` numbers or large in hex."""

    number: int
    name: str
    names: Mapping[int, str]
    is_plain: bool


class _Plan(NamedTuple):
    """How one hypercall, or one command of it, is decoded: made once for each. ``size`` is that of a structure."""

    command: str | None
    arguments: tuple[_Argument, ...]
    pointer: int | None
    length: int | None
    cls: type | None
    size: int
    show: Callable[[bytes, int], object]


class _Scalars(NamedTuple):
    """What is the same whenever a call is made with the same arguments, and where its structures are."""

    plan: _Plan
    fields: dict[str, object]
    pointer: str | None
    address: int
    elements: int


class HypercallDecoder:
    """Decodes calls of one width from guest memory. Bad pointers are shown as they are."""

    def __init__(self, abi: Abi, guest: GuestMemory) -> None:
        self._abi = abi
        self._guest = guest
        self._plans: dict[tuple[str, int | None], _Plan] = {}
        self._known: dict[tuple[object, ...], _Scalars] = {}
        self._structures: dict[type, Callable[[bytes, int], object]] = {}

    def before(self, row: Row, args: Sequence[int]) -> Decoded:
        """The arguments as the guest passed them."""
        key = (row.name, *args)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = self._scalars(row, args)
        plan, scalars, name, address, count = known
        fields = scalars.copy()
        place = None
        if name is not None:
            shown = min(count, _MAX_SHOWN)
            try:
                data = self._guest.copy_from_guest(address, shown * plan.size)
            except XenError:
                pass
            else:
                place = name, plan, address, shown, data
                fields[name] = _show(plan, data, shown, count)
        if row.name == "console_io" and len(args) > 2:
            text = self._guest.read_string(args[2], min(args[1], _MAX_STRING))
            fields["buffer"] = repr(text.decode("latin-1"))
        return Decoded(plan.command, fields, place)

    def _scalars(self, row: Row, args: Sequence[int]) -> _Scalars:
        """What the arguments alone say; a pointer to structures is a number here."""
        plan = self._plan(row, args)
        fields: dict[str, object] = {}
        if plan.command is not None:
            fields["cmd"] = plan.command
        pointer, address = None, 0
        for number, name, names, is_plain in plan.arguments:
            if number >= len(args):
                break
            value = args[number]
            if number == plan.pointer and value:
                pointer, address = name, value
            if value in names:
                fields[name] = names[value]
            else:
                fields[name] = value if is_plain or value < 1024 else f"{value:#x}"
        count = 1 if plan.length is None or pointer is None else args[plan.length] & 0x7FFF_FFFF
        return _Scalars(plan, fields, pointer, address, count)

    def after(self, decoded: Decoded) -> None:
        """Put what Xen changed in the structures into the fields: ``port=0=>5``."""
        if decoded.place is None:
            return
        name, plan, address, count, before = decoded.place
        if plan.cls in _READ_ONLY:
            return
        try:
            data = self._guest.copy_from_guest(address, len(before))
        except XenError:
            return
        if data == before:
            return
        decoded.fields[name] = _changes(decoded.fields[name], _show(plan, data, count, count))

    # -- plans ---------------------------------------------------------------------------------------------------------
    def _plan(self, row: Row, args: Sequence[int]) -> _Plan:
        signature = SIGNATURES.get(row.name, _NO_SIGNATURE)
        key = None
        if signature.commands and args:
            key = args[0] & 0xFFFF_FFFF
            if key not in signature.commands and key not in signature.structures:
                key = -1  # what nobody knows is all the same
        plan = self._plans.get((row.name, key))
        if plan is None:
            plan = self._plans[row.name, key] = self._make_plan(row, signature, key)
        return plan

    def _make_plan(self, row: Row, signature: Signature, key: int | None) -> _Plan:
        parameters = list(inspect.signature(row.handler).parameters)[1:]
        names = [name.strip("_") for name in parameters[: row.nargs_of(self._abi.bits)]]
        command = signature.commands.get(key) if key is not None else None
        arguments = []
        for number, name in enumerate(names):
            if command is None or number:
                known = signature.constants.get(name) or signature.constants.get(name + "_") or {}
                is_domain = name in _DOMAINS
                arguments.append(_Argument(number, name, {**FIELD_NAMES["dom"], **known} if is_domain else known,
                                           is_domain))  # fmt: skip
        cls = signature.structures.get(key)
        if cls is None or signature.pointer is None:
            return _Plan(command, tuple(arguments), None, None, None, 0, lambda data, offset: None)
        size = self._abi.sizeof(cls)
        return _Plan(command, tuple(arguments), signature.pointer, signature.length, cls, size, self._structure(cls))

    # -- structures --------------------------------------------------------------------------------------------------
    def _structure(self, cls: type) -> Callable[[bytes, int], object]:
        """What shows a structure in bytes at an offset: built once for each."""
        known = self._structures.get(cls)
        if known is None:
            known = self._structures[cls] = self._make_structure(cls)
        return known

    def _make_structure(self, cls: type) -> Callable[[bytes, int], object]:
        if cls is xen.mmu_update:
            return _mmu_update
        if cls is xen.mmuext_op:
            return self._mmuext_op
        codec = self._abi.struct_codec(cls)
        members = []
        for name, member in codec.codecs.items():
            if name.startswith(("pad", "_pad")):
                continue
            members.append((name, codec.offsets[name], self._member(f"{cls.__name__}.{name}", name, member)))
            if codec.union:
                break

        def show(data: bytes, offset: int) -> object:
            return {name: value(data, offset + start) for name, start, value in members}

        return show

    def _member(self, path: str, name: str, codec: Codec) -> Callable[[bytes, int], object]:
        if isinstance(codec, ScalarCodec):
            return _scalar(codec, FIELD_NAMES.get(path) or FIELD_NAMES.get("dom" if name in _DOMAINS else name) or {})
        if isinstance(codec, StructCodec):
            return self._structure(codec.cls)
        if isinstance(codec, BytesCodec):
            length = codec.size
            return lambda data, offset: repr(data[offset : offset + length].rstrip(b"\0").decode("latin-1"))
        assert isinstance(codec, ArrayCodec)
        starts = [i * codec.element.size for i in range(min(codec.count, _MAX_SHOWN))]
        element = self._member(path, name, codec.element)
        return lambda data, offset: [element(data, offset + start) for start in starts]

    def _mmuext_op(self, data: bytes, offset: int) -> object:
        width = self._abi.long_size
        command = int.from_bytes(data[offset : offset + 4], "little")
        first = int.from_bytes(data[offset + width : offset + 2 * width], "little")
        found: dict[str, object] = {"cmd": _MMUEXT_NAMES.get(command, command)}
        if command in _LINEAR_ADDRESS:
            found["linear_addr"] = f"{first:#x}"
        elif command not in _NO_ARGUMENT:
            found["mfn"] = f"{first:#x}"
        second = int.from_bytes(data[offset + 2 * width : offset + 3 * width], "little")
        if command == xen.MMUEXT_SET_LDT:
            found["nr_ents"] = second & 0xFFFF_FFFF
        elif command == xen.MMUEXT_COPY_PAGE:
            found["src_mfn"] = f"{second:#x}"
        return found


def _mmu_update(data: bytes, offset: int) -> object:
    pointer, value = _TWO_WORDS.unpack_from(data, offset)
    return {"ptr": f"{pointer:#x}", "val": f"{value:#x}"}


def _scalar(codec: ScalarCodec, names: Mapping[int, str]) -> Callable[[bytes, int], object]:
    load = codec.load
    is_hexadecimal = codec.name in _HEXADECIMAL

    def show(data: bytes, offset: int) -> object:
        value = load(data, offset)
        assert isinstance(value, int)
        if value in names:
            return names[value]
        return f"{value:#x}" if is_hexadecimal else value

    return show


def _show(plan: _Plan, data: bytes, shown: int, count: int) -> object:
    """A structure, or ``shown`` of ``count`` in an array."""
    if plan.length is None:
        return plan.show(data, 0)
    size, show = plan.size, plan.show
    elements = [show(data, at) for at in range(0, shown * size, size)]
    if count > shown:
        elements.append(f"... {count - shown} more")
    return elements


def _changes(old: object, new: object) -> object:
    """``new`` with what it was before, where that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: _changes(old.get(name), value) for name, value in new.items()}
    if isinstance(old, list) and isinstance(new, list):
        return [*map(_changes, old, new), *old[len(new) :]]
    return new if old == new else f"{old}=>{new}"


def result_text(result: int, names: Mapping[int, str] = errno.NAMES) -> object:
    """A result for people: a number, or ``-EINVAL``."""
    return f"-{names[-result]}" if -result in names else result if -1024 < result < 1024 else f"{result:#x}"
