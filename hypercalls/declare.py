"""The vocabulary in which Xen's structures are declared, once for both widths.

A structure is an annotated class, fields in C order, every one with a zero default::

    @cstruct
    class evtchn_bind_virq:
        virq: u32 = 0
        vcpu: u32 = 0
        port: evtchn_port_t = 0

Type checkers see plain ``int``, ``bytes``, ``list`` and nested classes; :mod:`hypercalls.abi` works out offsets
from the annotations, when first asked. Nothing is computed at import.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar, dataclass_transform, get_args, get_type_hints

__all__ = [
    "ONLY32", "ONLY64", "ZERO", "Array", "Bytes", "Field", "Only", "PerWidth", "Scalar", "char", "cstruct", "cunion",
    "element_kind", "fields_of", "guest_handle", "is_union", "s8", "s16", "s32", "s64", "slong", "u8", "u16", "u32",
    "u64", "ulong", "xen_pfn_t", "zero_of",
]  # fmt: skip

C = TypeVar("C")


class PerWidth(NamedTuple):
    """A number that is not the same in both widths."""

    pv64: int
    pv32: int


class Scalar(NamedTuple):
    """An integer: its C name and the ``struct`` code of each width."""

    name: str
    code64: str
    code32: str


class Array(NamedTuple):
    """``length`` elements, each of the kind that ``element`` (an annotated alias or a structure) says."""

    element: object
    length: int | PerWidth


class Bytes(NamedTuple):
    """``length`` bytes kept together (char arrays, UUIDs): a ``bytes`` value, padded with NULs when packed."""

    length: int | PerWidth


class Only(NamedTuple):
    """Marks a field that only one width has; in the other it stays zero and takes no room."""

    bits: int


ONLY64: Final = Only(64)
ONLY32: Final = Only(32)

#: Default of fields that are structures or lists: a fresh zero value for each object (Any: it fits all).
ZERO: Final[Any] = None

u8: TypeAlias = Annotated[int, Scalar("u8", "B", "B")]
u16: TypeAlias = Annotated[int, Scalar("u16", "H", "H")]
u32: TypeAlias = Annotated[int, Scalar("u32", "I", "I")]
u64: TypeAlias = Annotated[int, Scalar("u64", "Q", "Q")]
s8: TypeAlias = Annotated[int, Scalar("s8", "b", "b")]
s16: TypeAlias = Annotated[int, Scalar("s16", "h", "h")]
s32: TypeAlias = Annotated[int, Scalar("s32", "i", "i")]
s64: TypeAlias = Annotated[int, Scalar("s64", "q", "q")]
char: TypeAlias = Annotated[int, Scalar("char", "B", "B")]
ulong: TypeAlias = Annotated[int, Scalar("ulong", "Q", "I")]
slong: TypeAlias = Annotated[int, Scalar("slong", "q", "i")]
xen_pfn_t: TypeAlias = Annotated[int, Scalar("xen_pfn_t", "Q", "I")]
guest_handle: TypeAlias = Annotated[int, Scalar("guest_handle", "Q", "I")]  #: XEN_GUEST_HANDLE: a pointer of the width


class Field(NamedTuple):
    """One declared field: ``kind`` is a Scalar, an Array, Bytes or a declared class; ``only`` its width or None."""

    name: str
    kind: object
    only: int | None


@dataclass_transform(kw_only_default=True)
def cstruct(cls: type[C]) -> type[C]:
    """Make an annotated class a C structure: keyword constructor, equality and repr over its fields."""
    return _declare(cls, union=False)


@dataclass_transform(kw_only_default=True)
def cunion(cls: type[C]) -> type[C]:
    """Make an annotated class a C union.

    Unpacking fills every member from the same bytes. Packing writes the member that was changed since then (since zero,
    for a constructed object); when several were, the last declared of them.
    """
    return _declare(cls, union=True)


def is_union(cls: type) -> bool:
    """Whether a declared class is a union; TypeError for a class that is not declared at all."""
    union = cls.__dict__.get("__c_union__")
    if not isinstance(union, bool):
        raise TypeError(f"{cls.__name__} is not declared with @cstruct or @cunion")
    return union


def _declare(cls: type[C], *, union: bool) -> type[C]:
    for name, value in (
        ("__c_union__", union),
        ("__init__", _init),
        ("__eq__", _eq),
        ("__hash__", None),
        ("__repr__", _repr),
    ):
        setattr(cls, name, value)
    return cls


def _init(self: object, **values: object) -> None:
    state = vars(self)
    for name, kind, _ in fields_of(type(self)):
        state[name] = values.pop(name) if name in values else zero_of(kind)
    if values:
        raise TypeError(f"{type(self).__name__} has no field {', '.join(values)}")


def _eq(self: object, other: object) -> object:
    if type(self) is not type(other):
        return NotImplemented
    return all(getattr(self, field.name) == getattr(other, field.name) for field in fields_of(type(self)))


def _repr(self: object) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields_of(type(self)))
    return f"{type(self).__name__}({', '.join(shown)})"


def fields_of(cls: type) -> tuple[Field, ...]:
    """The declared fields, annotations evaluated (once per class), in order."""
    known: tuple[Field, ...] | None = cls.__dict__.get("__c_fields__")
    if known is not None:
        return known
    is_union(cls)
    fields = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        marks = get_args(hint)[1:] if hasattr(hint, "__metadata__") else ()
        only = next((mark.bits for mark in marks if isinstance(mark, Only)), None)
        fields.append(Field(name, element_kind(hint), only))
    result = tuple(fields)
    setattr(cls, "__c_fields__", result)  # noqa: B010 - mypy knows no such attribute of ``type``
    return result


def element_kind(hint: object) -> object:
    """What an annotation stands for: the Scalar, Array or Bytes in it, or the declared class."""
    if isinstance(hint, type):
        is_union(hint)
        return hint
    base, *marks = get_args(hint)
    for mark in marks:
        if isinstance(mark, Scalar | Array | Bytes):
            return mark
    return element_kind(base)


def zero_of(kind: object) -> object:
    """A fresh zero value of a field kind (arrays as long as the wider of the two widths has them)."""
    if isinstance(kind, Scalar):
        return 0
    if isinstance(kind, Bytes):
        return b""
    if isinstance(kind, Array):
        length = kind.length if isinstance(kind.length, int) else max(kind.length)
        element = element_kind(kind.element)
        return [zero_of(element) for _ in range(length)]
    assert isinstance(kind, type)
    return kind()
