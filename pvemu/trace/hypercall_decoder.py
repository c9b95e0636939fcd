"""A hypercall's arguments as structures instead of pointers, before and after the call."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

from hypercalls.abi import ArrayCodec, BytesCodec, Codec, ScalarCodec, StructCodec
from hypercalls.errors import XenError
from hypercalls.public import errno, xen
from hypercalls.signatures import FIELD_NAMES, SIGNATURES, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hypercalls.abi import Abi
    from hypercalls.table import Row
    from pvemu.hypervisor.guest_access import GuestMemory

__all__ = ["Decoded", "HypercallDecoder", "result_text"]

#: Elements of an array that are shown.
_MAX_SHOWN = 16
_MAX_STRING = 64
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
#: Structures that Xen only reads: kernels pass these by the ten thousand.
_READ_ONLY = frozenset((xen.mmu_update, xen.mmuext_op))


class Decoded(NamedTuple):
    """``command`` is the name of a multiplexer's operation; ``places`` are the structures read: field of ``fields``,
    class, address, their number as shown, bytes.
    """

    command: str | None
    fields: dict[str, object]
    place: tuple[str, type, int, int, bytes] | None


class HypercallDecoder:
    """Decodes calls of one width from guest memory. Bad pointers are shown as they are."""

    def __init__(self, abi: Abi, guest: GuestMemory) -> None:
        self._abi = abi
        self._guest = guest
        self._names: dict[str, tuple[str, ...]] = {}

    def before(self, row: Row, args: Sequence[int]) -> Decoded:
        """The arguments as the guest passed them."""
        signature = SIGNATURES.get(row.name, _NO_SIGNATURE)
        names = self._arguments(row)
        fields: dict[str, object] = {}
        command, skipped = None, -1
        cls = signature.structures.get(None)
        if signature.commands and args:
            command = signature.commands.get(args[0] & 0xFFFF_FFFF)
            cls = signature.structures.get(args[0] & 0xFFFF_FFFF)
            if command is not None:
                skipped = 0
        place = None
        for number, (name, value) in enumerate(zip(names, args, strict=False)):
            if number == skipped:
                continue
            if number == signature.pointer and cls is not None and value:
                count = args[signature.length] if signature.length is not None else 1
                count &= 0x7FFF_FFFF
                place = self._read(name, cls, value, count)
                if place is not None:
                    fields[name] = self._show(cls, place[4], place[3], count, signature.length is not None)
                    continue
            fields[name] = self._argument(name, value, signature)
        if row.name == "console_io" and len(args) > 2:
            text = self._guest.read_string(args[2], min(args[1], _MAX_STRING))
            fields["buffer"] = repr(text.decode("latin-1"))
        return Decoded(command, fields, place)

    def after(self, decoded: Decoded) -> None:
        """Put what Xen changed in the structures into the fields: ``port=0=>5``."""
        if decoded.place is None or decoded.place[1] in _READ_ONLY:
            return
        name, cls, address, count, before = decoded.place
        try:
            data = self._guest.copy_from_guest(address, len(before))
        except XenError:
            return
        if data == before:
            return
        old, new = decoded.fields[name], self._show(cls, data, count, count, isinstance(decoded.fields[name], list))
        decoded.fields[name] = _changes(old, new)

    def _arguments(self, row: Row) -> tuple[str, ...]:
        known = self._names.get(row.name)
        if known is None:
            parameters = list(inspect.signature(row.handler).parameters)[1:]
            known = tuple(name.strip("_") for name in parameters[: row.nargs_of(self._abi.bits)])
            self._names[row.name] = known
        return known

    def _argument(self, name: str, value: int, signature: Signature) -> object:
        known = signature.constants.get(name) or signature.constants.get(name + "_")
        if known is not None and value in known:
            return known[value]
        if name in _DOMAINS:
            return FIELD_NAMES["dom"].get(value, value)
        return value if value < 1024 else f"{value:#x}"

    def _read(self, name: str, cls: type, address: int, count: int) -> tuple[str, type, int, int, bytes] | None:
        shown = min(count, _MAX_SHOWN)
        try:
            data = self._guest.copy_from_guest(address, shown * self._abi.sizeof(cls))
        except XenError:
            return None
        return name, cls, address, shown, data

    # -- structures --------------------------------------------------------------------------------------------------
    def _show(self, cls: type, data: bytes, shown: int, count: int, is_array: bool) -> object:
        codec = self._abi.struct_codec(cls)
        size = codec.size
        elements: list[object]
        if cls is xen.mmu_update:
            words = memoryview(data).cast("Q").tolist()
            elements = [{"ptr": hex(words[i]), "val": hex(words[i + 1])} for i in range(0, 2 * shown, 2)]
        else:
            elements = [self._structure(cls, codec, data, i * size) for i in range(shown)]
        if not is_array:
            return elements[0] if elements else {}
        if count > shown:
            elements.append(f"... {count - shown} more")
        return elements

    def _structure(self, cls: type, codec: StructCodec, data: bytes, offset: int) -> dict[str, object]:
        if cls is xen.mmuext_op:
            return self._mmuext_op(data, offset)
        found: dict[str, object] = {}
        for name, member in codec.codecs.items():
            if name.startswith(("pad", "_pad")):
                continue
            found[name] = self._value(f"{cls.__name__}.{name}", name, member, data, offset + codec.offsets[name])
            if codec.union:
                break
        return found

    def _value(self, path: str, name: str, codec: Codec, data: bytes, offset: int) -> object:
        if isinstance(codec, ScalarCodec):
            value = codec.load(data, offset)
            assert isinstance(value, int)
            known = FIELD_NAMES.get(path) or FIELD_NAMES.get("dom" if name in _DOMAINS else name)
            if known is not None and value in known:
                return known[value]
            return f"{value:#x}" if codec.name in _HEXADECIMAL else value
        if isinstance(codec, StructCodec):
            return self._structure(codec.cls, codec, data, offset)
        if isinstance(codec, BytesCodec):
            return repr(data[offset : offset + codec.size].rstrip(b"\0").decode("latin-1"))
        assert isinstance(codec, ArrayCodec)
        shown = min(codec.count, _MAX_SHOWN)
        return [self._value(path, name, codec.element, data, offset + i * codec.element.size) for i in range(shown)]

    def _mmuext_op(self, data: bytes, offset: int) -> dict[str, object]:
        width = self._abi.long_size
        command = int.from_bytes(data[offset : offset + 4], "little")
        first = int.from_bytes(data[offset + width : offset + 2 * width], "little")
        second = int.from_bytes(data[offset + 2 * width : offset + 3 * width], "little")
        found: dict[str, object] = {"cmd": FIELD_NAMES["mmuext_op.cmd"].get(command, command)}
        if command in _LINEAR_ADDRESS:
            found["linear_addr"] = f"{first:#x}"
        elif command not in _NO_ARGUMENT:
            found["mfn"] = f"{first:#x}"
        if command == xen.MMUEXT_SET_LDT:
            found["nr_ents"] = second & 0xFFFF_FFFF
        elif command == xen.MMUEXT_COPY_PAGE:
            found["src_mfn"] = f"{second:#x}"
        return found


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
