"""Layouts of declared structures in one width: ``ABI64`` (x86_64 PV) and ``ABI32`` (i386 PAE PV).

The two differ in the size of ``long`` and pointers and in i386 aligning 64-bit integers to 4 bytes. Layouts are worked
out when first used and kept per width. Hot paths take :meth:`Abi.reader`, a ``struct.Struct`` that the declaration
makes.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from hypercalls.declare import Array, Bytes, Field, PerWidth, Scalar, element_kind, fields_of, is_union, zero_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ABI32", "ABI64", "Abi", "Codec", "StructCodec"]

T = TypeVar("T")

_PATH_STEP: Final = re.compile(r"\.?(?P<name>\w+)|\[(?P<index>\d+)\]")


class Codec(Protocol):
    """Bytes of one kind of value in one width."""

    size: int
    align: int

    def load(self, data: bytes | bytearray | memoryview, offset: int) -> object:
        """The value whose bytes start at ``offset``."""

    def store(self, buffer: bytearray, offset: int, value: object) -> None:
        """Put a value's bytes at ``offset``."""


class ScalarCodec:
    """An integer; ``code`` is its ``struct`` letter."""

    def __init__(self, kind: Scalar, bits: int) -> None:
        self.name = kind.name
        self.code = kind.code64 if bits == 64 else kind.code32
        self._struct = Struct("<" + self.code)
        self.size = self._struct.size
        self.align = min(self.size, 4) if bits == 32 else self.size

    def load(self, data: bytes | bytearray | memoryview, offset: int) -> object:
        return self._struct.unpack_from(data, offset)[0]

    def store(self, buffer: bytearray, offset: int, value: object) -> None:
        self._struct.pack_into(buffer, offset, value)


class BytesCodec:
    """A run of bytes."""

    def __init__(self, count: int) -> None:
        self.code = f"{count}s"
        self.size = count
        self.align = 1

    def load(self, data: bytes | bytearray | memoryview, offset: int) -> object:
        return bytes(data[offset : offset + self.size])

    def store(self, buffer: bytearray, offset: int, value: object) -> None:
        assert isinstance(value, bytes)
        buffer[offset : offset + self.size] = value[: self.size].ljust(self.size, b"\0")


class ArrayCodec:
    """Elements of one kind, as a list. A short list is packed with zeros behind it, a long one is cut."""

    def __init__(self, element: Codec, count: int, zero: object) -> None:
        self.element = element
        self.count = count
        self.size = element.size * count
        self.align = element.align
        self._zero = zero
        self._struct = Struct(f"<{count}{element.code}") if isinstance(element, ScalarCodec) else None

    def load(self, data: bytes | bytearray | memoryview, offset: int) -> object:
        if self._struct is not None:
            return list(self._struct.unpack_from(data, offset))
        element = self.element
        return [element.load(data, offset + index * element.size) for index in range(self.count)]

    def store(self, buffer: bytearray, offset: int, value: object) -> None:
        assert isinstance(value, list)
        values = value[: self.count] + [self._zero] * (self.count - len(value))
        if self._struct is not None:
            self._struct.pack_into(buffer, offset, *values)
            return
        for index, item in enumerate(values):
            self.element.store(buffer, offset + index * self.element.size, item)


class StructCodec:
    """A declared structure or union: ``offsets`` and ``codecs`` by field name, of the fields this width has."""

    def __init__(self, cls: type, bits: int, codec_of: Callable[[object], Codec]) -> None:
        self.cls = cls
        self.union = is_union(cls)
        self.offsets: dict[str, int] = {}
        self.codecs: dict[str, Codec] = {}
        self._absent: list[Field] = []
        end, self.align = 0, 1
        for field in fields_of(cls):
            if field.only not in (None, bits):
                self._absent.append(field)
                continue
            codec = codec_of(field.kind)
            start = 0 if self.union else -(-end // codec.align) * codec.align
            self.offsets[field.name], self.codecs[field.name] = start, codec
            end = max(end, start + codec.size)
            self.align = max(self.align, codec.align)
        self.size = -(-end // self.align) * self.align
        flat = [] if self.union else [n for n, c in self.codecs.items() if isinstance(c, ScalarCodec | BytesCodec)]
        self._flat_names = tuple(flat)
        self._flat = Struct(self.format(flat))
        self._nested = [(name, self.offsets[name], self.codecs[name]) for name in self.codecs if name not in flat]

    def format(self, names: list[str]) -> str:
        """The ``struct`` format that covers the whole structure and has values for ``names`` alone."""
        return _padded_format(((self.offsets[name], _code(self.codecs[name])) for name in names), self.size)

    def load(self, data: bytes | bytearray | memoryview, offset: int) -> object:
        """The object whose bytes start at ``offset``."""
        value: object = object.__new__(self.cls)
        state = vars(value)
        state.update(zip(self._flat_names, self._flat.unpack_from(data, offset), strict=True))
        for name, start, codec in self._nested:
            state[name] = codec.load(data, offset + start)
        for field in self._absent:
            state[field.name] = zero_of(field.kind)
        if self.union:
            state["_unpacked"] = bytes(data[offset : offset + self.size])
        return value

    def store(self, buffer: bytearray, offset: int, value: object) -> None:
        """Put an object's bytes at ``offset``."""
        if self.union:
            buffer[offset : offset + self.size] = self._union_bytes(value)
            return
        state = vars(value)
        self._flat.pack_into(buffer, offset, *[state[name] for name in self._flat_names])
        for name, start, codec in self._nested:
            codec.store(buffer, offset + start, state[name])

    def _union_bytes(self, value: object) -> bytes:
        before: bytes = vars(value).get("_unpacked", b"")
        result = before = before[: self.size].ljust(self.size, b"\0")
        for name, codec in self.codecs.items():
            buffer = bytearray(before)
            codec.store(buffer, 0, getattr(value, name))
            if buffer != before:
                result = bytes(buffer)
        return result


def _code(codec: Codec) -> str:
    """The ``struct`` letters of a value without inner padding."""
    if isinstance(codec, ScalarCodec | BytesCodec):
        return codec.code
    if isinstance(codec, ArrayCodec) and isinstance(codec.element, ScalarCodec):
        return f"{codec.count}{codec.element.code}"
    raise TypeError("only integers, bytes and arrays of integers can be read as one tuple")


def _padded_format(places: Iterable[tuple[int, str]], size: int) -> str:
    """``struct`` format of (offset, code) places in rising order, pad bytes between and after them."""
    parts, position = ["<"], 0
    for start, code in places:
        if start < position:
            raise ValueError("fields must be named in the order of their offsets and not overlap")
        parts += [f"{start - position}x" if start > position else "", code]
        position = start + Struct("<" + code).size
    return "".join([*parts, f"{size - position}x" if size > position else ""])


class Abi:
    """Sizes, offsets, packing and unpacking in one width (``bits`` is 64 or 32)."""

    def __init__(self, bits: int) -> None:
        if bits not in (32, 64):
            raise ValueError(f"no such width: {bits}")
        self.bits = bits
        self.long_size = bits // 8
        self.long_fmt = "<Q" if bits == 64 else "<I"
        self.long_mask = (1 << bits) - 1
        #: hypercall arguments, first to last (public/arch-x86/xen-x86_64.h, xen-x86_32.h)
        self.arg_registers: tuple[str, ...] = (
            ("rdi", "rsi", "rdx", "r10", "r8", "r9") if bits == 64 else ("ebx", "ecx", "edx", "esi", "edi", "ebp")
        )
        self._codecs: dict[object, Codec] = {}
        self._readers: dict[tuple[type, tuple[str, ...]], Struct] = {}
        self._places: dict[tuple[type, str], tuple[int, Codec]] = {}

    def __repr__(self) -> str:
        return f"Abi({self.bits})"

    def decode_args(self, read_register: Callable[[str], int], nargs: int) -> tuple[int, ...]:
        """The first ``nargs`` hypercall arguments, cut to the width."""
        return tuple(read_register(name) & self.long_mask for name in self.arg_registers[:nargs])

    def codec(self, kind: object) -> Codec:
        """The codec of a declared class or field kind (see hypercalls.declare)."""
        key: object = kind
        if isinstance(kind, Array):
            key = (Array, element_kind(kind.element), kind.length)
        found = self._codecs.get(key)
        if found is None:
            found = self._codecs[key] = self._make_codec(kind)
        return found

    def struct_codec(self, cls: type) -> StructCodec:
        """The layout of a declared class."""
        codec = self.codec(cls)
        assert isinstance(codec, StructCodec)
        return codec

    def _make_codec(self, kind: object) -> Codec:
        if isinstance(kind, Scalar):
            return ScalarCodec(kind, self.bits)
        if isinstance(kind, Bytes):
            return BytesCodec(self._count(kind.length))
        if isinstance(kind, Array):
            element = element_kind(kind.element)
            return ArrayCodec(self.codec(element), self._count(kind.length), zero_of(element))
        assert isinstance(kind, type)
        return StructCodec(kind, self.bits, self.codec)

    def _count(self, count: int | PerWidth) -> int:
        return count if isinstance(count, int) else count.pv64 if self.bits == 64 else count.pv32

    def sizeof(self, cls: type) -> int:
        """Bytes of a declared class."""
        return self.codec(cls).size

    def alignof(self, cls: type) -> int:
        """Alignment of a declared class in bytes."""
        return self.codec(cls).align

    def offsetof(self, cls: type, path: str) -> int:
        """Byte offset of a field, which may be inside others: ``offsetof(shared_info, "vcpu_info[2].time")``."""
        return self._place(cls, path)[0]

    def fieldsize(self, cls: type, path: str) -> int:
        """Bytes of the field at ``path``."""
        return self._place(cls, path)[1].size

    def _place(self, cls: type, path: str) -> tuple[int, Codec]:
        found = self._places.get((cls, path))
        if found is None:
            found = self._places[cls, path] = self._walk(cls, path)
        return found

    def _walk(self, cls: type, path: str) -> tuple[int, Codec]:
        offset, codec, position = 0, self.codec(cls), 0
        while position < len(path):
            step = _PATH_STEP.match(path, position)
            if step is None:
                raise ValueError(f"not a field path: {path}")
            position = step.end()
            if step["name"] is None:
                index = int(step["index"])
                if not isinstance(codec, ArrayCodec) or index >= codec.count:
                    raise KeyError(f"{cls.__name__}.{path}: no element {index}")
                offset, codec = offset + index * codec.element.size, codec.element
            elif isinstance(codec, StructCodec) and step["name"] in codec.offsets:
                offset, codec = offset + codec.offsets[step["name"]], codec.codecs[step["name"]]
            else:
                raise KeyError(f"{cls.__name__} has no {path} in {self.bits} bits")
        return offset, codec

    def unpack(self, cls: type[T], data: bytes | bytearray | memoryview, offset: int = 0) -> T:
        """The object whose bytes start at ``offset``; ``struct.error`` when there are too few of them."""
        value = self.codec(cls).load(data, offset)
        assert isinstance(value, cls)
        return value

    def pack(self, value: object) -> bytes:
        """The bytes of an object, padding zero; ``struct.error`` when a value does not fit its field."""
        codec = self.codec(type(value))
        buffer = bytearray(codec.size)
        codec.store(buffer, 0, value)
        return bytes(buffer)

    def reader(self, cls: type, *paths: str) -> Struct:
        """A ``struct.Struct`` as long as ``cls`` that reads the fields at ``paths`` (all of them, if none is given).

        ``paths`` rise in offset; ``unpack_from`` reads one structure, ``iter_unpack`` an array of them. As a writer it
        zeroes every field that is not named.
        """
        found = self._readers.get((cls, paths))
        if found is None:
            named = paths or tuple(self.struct_codec(cls).codecs)
            places = [self._place(cls, path) for path in named]
            text = _padded_format(((offset, _code(codec)) for offset, codec in places), self.sizeof(cls))
            found = self._readers[cls, paths] = Struct(text)
        return found


ABI64: Final = Abi(64)
ABI32: Final = Abi(32)
