# What a 32-bit guest finds at its entry: registers, start_info, the machine-to-physical table, shared_info, hypercalls.
main:
        call    install_traps
        mov     start_info, %ebx
        show    magic, 8(%ebx)
        show    nr_pages, SI_nr_pages(%ebx)
        show    pt_base, SI_pt_base(%ebx)
        show    nr_pt_frames, SI_nr_pt_frames(%ebx)
        show    mfn_list, SI_mfn_list(%ebx)
        mov     SI_pt_base(%ebx), %edi
        show    l3_entry0, (%edi)
        try     movl $0, (%edi)                 # trap 0: tables are read-only
        # the last L2, right behind the first three: Xen's part of it
        show    l2_xen, 4*4096+428*8(%edi)
        mov     SI_nr_pages(%ebx), %ecx
        mov     SI_mfn_list(%ebx), %esi
        xor     %edx, %edx
        xor     %ebp, %ebp
1:      mov     (%esi, %edx, 4), %eax
        cmp     %edx, %eax
        je      2f                              # pfn == mfn would hide mix-ups
        cmp     %edx, M2P(, %eax, 4)
        je      3f
2:      inc     %ebp
3:      inc     %edx
        cmp     %ecx, %edx
        jb      1b
        show    m2p_mismatches, %ebp
        mov     (%esi), %eax
        try     movl $0, M2P(, %eax, 4)         # trap 1: the M2P is read-only
        try     movl M2P, %eax                  # others' frames have entries too
        try     movl 0xfffffff0, %eax           # trap 2: Xen's own area
        try     movb 0x3fffff, %al
        try     movb 0x400000, %al              # trap 3: not present, read
        try     movb %al, 0x400123              # trap 4: not present, write
        mov     $0x400000, %eax
        movl    $8f, trap_resume
        jmp     *%eax                           # trap 5: not present, fetch
8:      call    map_shared_info
        show    mapped, %eax
        mov     shared_info, %ebx
        movzbl  1(%ebx), %eax
        show    mask0, %eax
        movzbl  31*64+1(%ebx), %eax
        show    mask31, %eax
        show    pending_ports, 0x800(%ebx)
        show    wc_version, 0x900(%ebx)
        show    wc_sec, 0x904(%ebx)
        # a hypercall through its slot of the page keeps everything but eax
        mov     $0, %ebx                        # XENVER_version
        mov     $0x1111, %ecx
        mov     $0x2222, %edx
        mov     $0x3333, %esi
        mov     $0x4444, %edi
        mov     $0x5555, %ebp
        call    hypercall_page + 32 * __HYPERVISOR_xen_version
        show    version, %eax
        show    kept_ebx, %ebx
        show    kept_ecx, %ecx
        show    kept_edx, %edx
        show    kept_esi, %esi
        show    kept_edi, %edi
        show    kept_ebp, %ebp
        mov     $__HYPERVISOR_xen_version, %eax
        stc
        int     $0x82
        setc    %cl
        movzbl  %cl, %ecx
        show    carry, %ecx
        show    version_by_int, %eax
        mov     $62, %eax
        int     $0x82
        show    unknown, %eax
        mov     $__HYPERVISOR_set_segment_base, %eax
        int     $0x82
        show    segment_base, %eax
        ret
