"""``xl info``: the machine that guests here run on (tools/xl/xl_info.c). The host's name and memory are real."""

from __future__ import annotations

import os
from pathlib import Path

from hypercalls.public.arch_x86 import HYPERVISOR_VIRT_START_X86_64
from hypercalls.xen_version import XEN_CAPABILITIES, XEN_SUBVERSION, XEN_VERSION
from pvemu.cpu.cpuid import CpuPolicy

__all__ = ["host_memory_mib", "info_lines", "numa_lines"]

_EXTRA = ".7"
_WIDTH = 23


def host_memory_mib() -> tuple[int, int]:
    """Total and free memory of the host."""
    found = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(":")
            found[key] = int(value.split()[0]) >> 10
    except (OSError, ValueError, IndexError):
        return 0, 0
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)


def info_lines() -> list[tuple[str, str]]:
    """Names and values, in xl's order."""
    host = os.uname()
    cpus = os.cpu_count() or 1
    total, free = host_memory_mib()
    cpuid = CpuPolicy(has_itsc=True).cpuid
    basic, extended, more = cpuid(1, 0), cpuid(0x8000_0001, 0), cpuid(7, 0)
    words = (basic[3], basic[2], extended[3], extended[2], 0, more[1], more[2], cpuid(0x8000_0007, 0)[3])
    xen = f"{XEN_VERSION}.{XEN_SUBVERSION}"
    return [
        ("host", host.nodename),
        ("release", host.release),
        ("version", host.version),
        ("machine", host.machine),
        ("nr_cpus", str(cpus)),
        ("max_cpu_id", str(cpus - 1)),
        ("nr_nodes", "1"),
        ("cores_per_socket", str(cpus)),
        ("threads_per_core", "1"),
        ("cpu_mhz", "1000.000"),
        ("hw_caps", ":".join(f"{word:08x}" for word in words)),
        ("virt_caps", "pv gnttab-v1 gnttab-v2"),
        ("total_memory", str(total)),
        ("free_memory", str(free)),
        ("sharing_freed_memory", "0"),
        ("sharing_used_memory", "0"),
        ("outstanding_claims", "0"),
        ("free_cpus", "0"),
        ("xen_major", str(XEN_VERSION)),
        ("xen_minor", str(XEN_SUBVERSION)),
        ("xen_extra", _EXTRA),
        ("xen_version", xen + _EXTRA),
        ("xen_caps", XEN_CAPABILITIES.decode()),
        ("xen_scheduler", "null"),
        ("xen_pagesize", "4096"),
        ("platform_params", f"virt_start={HYPERVISOR_VIRT_START_X86_64:#x}"),
        ("xen_changeset", "pvemu"),
        ("xen_commandline", ""),
        ("cc_compiler", ""),
        ("cc_compile_by", "pvemu"),
        ("cc_compile_domain", ""),
        ("cc_compile_date", ""),
        ("build_id", ""),
        ("xend_config_format", "4"),
    ]


def numa_lines() -> list[str]:
    """What ``-n`` adds: one node, and every CPU in it."""
    total, free = host_memory_mib()
    cpus = range(os.cpu_count() or 1)
    return [
        "cpu_topology           :",
        "cpu:    core    socket     node",
        *(f"{cpu:3d}:    {cpu:4d}     {0:4d}     {0:4d}" for cpu in cpus),
        "device topology        :",
        "device           node",
        "No device topology data available",
        "numa_info              :",
        "node:    memsize    memfree    distances",
        f"{0:4d}:    {total:6d}     {free:6d}      10",
    ]


def shown(name: str, value: str) -> str:
    """One line of it."""
    return f"{name:<{_WIDTH}}: {value}"
