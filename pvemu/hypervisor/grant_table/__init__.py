"""Grant tables (xen/common/grant_table.c, xen/arch/x86/pv/grant_table.c)."""

from __future__ import annotations

from pvemu.hypervisor.grant_table.grant_table import DEFAULT_MAX_GRANT_FRAMES, GrantRefusedError, GrantTable

__all__ = ["DEFAULT_MAX_GRANT_FRAMES", "GrantRefusedError", "GrantTable"]
