"""A domain's vcpus: what Xen keeps of each beside its registers, and the hypercalls that act on them (struct vcpu)."""

from __future__ import annotations

from pvemu.hypervisor.vcpu.vcpu import CALLBACK_KINDS, Vcpu

__all__ = ["CALLBACK_KINDS", "Vcpu"]
