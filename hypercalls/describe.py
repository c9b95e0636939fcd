"""Declared structures in a form for people: ``construct`` structures of the same layout, and text of their bytes.

For traces and crash reports only: ``construct`` takes 45 ms to import, so it is imported when first needed, and hot
paths read through :mod:`hypercalls.abi`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypercalls.abi import ABI32, ABI64, Abi, ArrayCodec, BytesCodec, Codec, ScalarCodec, StructCodec

if TYPE_CHECKING:
    # construct ships no type information: its objects are Any to the checker
    from construct import Construct  # type: ignore[import-untyped]

__all__ = ["declared_structures", "describe", "to_construct"]


def declared_structures() -> dict[str, type]:
    """Every structure and union of the public headers, by name, in the order of modules and declarations."""
    import importlib
    import pkgutil

    from hypercalls import public

    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(public.__path__, public.__name__ + "."):
        module = importlib.import_module(info.name)
        found |= {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and "__c_union__" in vars(value)
        }
    return found


def to_construct(cls: type, bits: int) -> Construct[Any, Any]:
    """The ``construct`` equivalent of a declared class in one width: same fields, same offsets, same size."""
    return _convert(_abi(bits).struct_codec(cls))


def describe(cls: type, data: bytes, bits: int) -> str:
    """``data`` read as ``cls``, a field a line, nested ones indented; says so where there are too few bytes."""
    import construct  # noqa: TC002 - 45 ms that a run without a report does not pay

    size = _abi(bits).sizeof(cls)
    if len(data) < size:
        return f"{cls.__name__}: {size} bytes wanted, {len(data)} there: {data.hex()}"
    value: construct.Container[Any] = to_construct(cls, bits).parse(data)
    return "\n".join([cls.__name__, *_lines(value, "  ")])


def _abi(bits: int) -> Abi:
    return ABI64 if bits == 64 else ABI32


def _convert(codec: Codec) -> Construct[Any, Any]:
    import construct

    if isinstance(codec, ScalarCodec):
        return construct.FormatField("<", {"I": "L", "i": "l"}.get(codec.code, codec.code))
    if isinstance(codec, BytesCodec):
        return construct.Bytes(codec.size)
    if isinstance(codec, ArrayCodec):
        return construct.Array(codec.count, _convert(codec.element))
    assert isinstance(codec, StructCodec)
    parts: list[Construct[Any, Any]] = []
    if codec.union:
        parts = [name / _convert(member) for name, member in codec.codecs.items()]
        return construct.FixedSized(codec.size, construct.Union(None, *parts))
    position = 0
    for name, member in codec.codecs.items():
        start = codec.offsets[name]
        if start > position:
            parts.append(construct.Padding(start - position))
        parts.append(name / _convert(member))
        position = start + member.size
    if codec.size > position:
        parts.append(construct.Padding(codec.size - position))
    return construct.Struct(*parts)


def _lines(value: object, indent: str) -> list[str]:
    """Text of a parsed value: mappings a field a line, long runs of equal elements shortened."""
    lines: list[str] = []
    assert isinstance(value, dict)
    for name, item in value.items():
        if not isinstance(name, str) or name.startswith("_"):
            continue
        if isinstance(item, dict):
            lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for index, element in enumerate(item):
                if _is_set(element):
                    lines += [f"{indent}{name}[{index}]:", *_lines(element, indent + "  ")]
        else:
            lines.append(f"{indent}{name} = {_text(item)}")
    return lines


def _is_set(value: object) -> bool:
    """Whether any number or byte in a parsed value is not zero."""
    if isinstance(value, dict):
        return any(_is_set(item) for name, item in value.items() if not str(name).startswith("_"))
    if isinstance(value, list):
        return any(_is_set(item) for item in value)
    return any(value) if isinstance(value, bytes) else bool(value)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value.rstrip(b"\0"))[1:]
    if isinstance(value, list):
        end = len(value)
        while end and value[end - 1] == 0:
            end -= 1
        return f"[{', '.join(_text(item) for item in value[:end])}{', 0...' if end < len(value) else ''}]"
    assert isinstance(value, int)
    return hex(value) if value > 9 else str(value)
