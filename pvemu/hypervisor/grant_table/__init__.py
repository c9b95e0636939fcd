"""Grant tables (xen/common/grant_table.c, xen/arch/x86/pv/grant_table.c)."""

from __future__ import annotations

from pvemu.hypervisor.grant_table.grant_table import GrantRefusedError, GrantTable

__all__ = ["GrantRefusedError", "GrantTable"]
