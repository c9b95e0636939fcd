"""The keys of xl.cfg that xl 4.17 knows (xl_parse.c parse_config_data), and what becomes of each one here."""

from __future__ import annotations

import enum

__all__ = ["KEYS", "Fate", "nearest_key"]


class Fate(enum.Enum):
    """What a key does to a domain here; the value completes "KEY ..."."""

    USED = "is used"
    SILENT = "changes nothing that a guest here could see"
    NO_DEVICE = "is left out: there is no such device here"
    REFUSED = "hands hardware or a memory layout to the guest, which nothing here can stand for; leave it out"
    HVM_ONLY = "has no effect on a PV guest"


_USED = """
    name type builder kernel ramdisk cmdline root extra firmware bootloader bootloader_args memory maxmem vcpus
    maxvcpus max_grant_frames max_maptrack_frames max_grant_version tsc_mode nomigrate disk uuid on_poweroff on_reboot
    on_watchdog on_crash on_soft_reset
"""
_SILENT = """
    acpi altp2m apic bootloader_restrict bootloader_user cap claim_mode cpu_weight cpuid cpus cpus_soft device_tree
    driver_domain e820_host extratime hap init_seclabel latency loader localtime max_event_channels msr_relaxed oos
    pci_msitranslate pci_permissive pci_power_mgmt pci_seize period pool pvshim pvshim_cmdline pvshim_extra
    pvshim_path rtc_timeoffset seclabel shadow_memory slice suppress_spurious_page_faults timer_mode videoram
    vmtrace_buf_kb vncviewer vpmu vpt_align xend_suspend_evtchn_compat
"""
_NO_DEVICE = """
    channel p9 pvcalls usbctrl usbdev vdispl vfb vif vif2 virtio vkb vkb_device vnc vncdisplay vnclisten vncpasswd
    vncunused vsnd vtpm
"""
_REFUSED = "dtdev iomem ioports irqs passthrough pci rdm vnuma"
_HVM_ONLY = """
    acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2mhvm bios bios_path_override boot device_model
    device_model_args device_model_args_hvm device_model_args_pv device_model_override
    device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user device_model_version display
    dm_restrict firmware_override gfx_passthru gic_version hdtype hpet keymap mca_caps mmio_hole ms_vm_genid
    nestedhvm nographic nx opengl pae rdm_mem_boundary sdl serial smbios_firmware soundhw spice
    spice_clipboard_sharing spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing
    spicehost spicepasswd spiceport spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline
    stubdomain_kernel stubdomain_memory stubdomain_ramdisk tee usb usbdevice usbversion vendor_device vga viridian
    vuart xauthority xen_platform_pci
"""
KEYS: dict[str, Fate] = {
    key: fate
    for fate, names in (
        (Fate.USED, _USED),
        (Fate.SILENT, _SILENT),
        (Fate.NO_DEVICE, _NO_DEVICE),
        (Fate.REFUSED, _REFUSED),
        (Fate.HVM_ONLY, _HVM_ONLY),
    )
    for key in names.split()
}
#: Slips that look like nothing that xl knows, from configurations and questions of users.
_WELL_KNOWN = {
    "append": "extra", "args": "extra", "command_line": "cmdline", "cpu": "vcpus", "disks": "disk", "domain": "name",
    "image": "kernel", "initramfs": "ramdisk", "initrd": "ramdisk", "kernel_cmdline": "cmdline", "mem": "memory",
    "ncpus": "vcpus", "nics": "vif", "options": "extra", "ram": "memory", "smp": "vcpus",
}  # fmt: skip


def nearest_key(key: str) -> str | None:
    """What ``key``, which xl does not know, was most likely to be."""
    if key in _WELL_KNOWN:
        return _WELL_KNOWN[key]
    from difflib import get_close_matches

    return next(iter(get_close_matches(key, KEYS, 1, 0.75)), None)
