"""xen_version (xen/common/kernel.c; what an unprivileged domain is told of is in xen/include/xsm/dummy.h)."""

from __future__ import annotations

from hypercalls.public import errno as e
from hypercalls.public import version as xv
from tests.hypercalls.documented import Case, Family
from tests.hypercalls.documented.world import NOWHERE, READ_ONLY, World

#: operations that write their answer and nothing else
_ANSWERED = (
    "XENVER_extraversion", "XENVER_compile_info", "XENVER_capabilities", "XENVER_changeset",
    "XENVER_platform_parameters", "XENVER_guest_handle", "XENVER_commandline",
)  # fmt: skip


def _op(world: World, operation: int, argument: object) -> int:
    return world.hypercall("xen_version", operation, argument)


def _case(name: str, error: int, argument: object) -> Case:
    operation = getattr(xv, name)
    return Case(name, error, lambda world: _op(world, operation, argument))


def _features_in_vain(world: World) -> int:
    return _op(world, xv.XENVER_get_features, world.put_read_only(xv.xen_feature_info()))


FAMILY = Family(
    documented={
        ("xen_version", e.ENOSYS): "no such operation; do_xen_version",
        **{(name, e.EFAULT): "the answer cannot be written; do_xen_version" for name in _ANSWERED},
        ("XENVER_get_features", e.EFAULT): "the structure is not mapped, or cannot be written; do_xen_version",
        ("XENVER_get_features", e.EINVAL): "there is one submap; do_xen_version",
        ("XENVER_pagesize", e.EINVAL): "an argument that is not null; do_xen_version",
        ("XENVER_build_id", e.EPERM): "for the control domain, whatever the argument; xsm_xen_version",
    },
    cases=[
        Case("xen_version", e.ENOSYS, lambda world: _op(world, 11, 0)),
        Case("xen_version", e.ENOSYS, lambda world: _op(world, -1, 0)),
        *(_case(name, e.EFAULT, address) for name in _ANSWERED for address in (0, NOWHERE, READ_ONLY.start)),
        _case("XENVER_get_features", e.EFAULT, NOWHERE),
        Case("XENVER_get_features", e.EFAULT, _features_in_vain),
        _case("XENVER_get_features", e.EINVAL, xv.xen_feature_info(submap_idx=1)),
        _case("XENVER_pagesize", e.EINVAL, NOWHERE),
        _case("XENVER_build_id", e.EPERM, 0), _case("XENVER_build_id", e.EPERM, NOWHERE),
    ],
    unreachable={
        ("XENVER_build_id", number): "refused before (xsm_xen_version)"
        for number in (e.EFAULT, e.EINVAL, e.ENODATA, e.ENOBUFS)
    },
    never_fails={"XENVER_version": "do_xen_version: there is no argument"},
)  # fmt: skip
