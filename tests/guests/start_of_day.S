# What a guest finds at its entry: registers, start_info, page tables, the machine-to-physical table, shared_info.
main:
        call    install_traps
        mov     start_info, %rbx
        show    magic, (%rbx)
        show    nr_pages, SI_nr_pages(%rbx)
        show    pt_base, SI_pt_base(%rbx)
        show    nr_pt_frames, SI_nr_pt_frames(%rbx)
        show    mfn_list, SI_mfn_list(%rbx)
        # the tables are mapped read-only: each is read, and refuses a store
        mov     SI_pt_base(%rbx), %rdi
        show    l4_entry0, (%rdi)
write_l4:
        try     movq $0, (%rdi)                 # trap 0: present, write
        # M2P is the inverse of the p2m for all pages
        mov     SI_nr_pages(%rbx), %rcx
        mov     SI_mfn_list(%rbx), %rsi
        mov     $M2P, %rdi
        xor     %edx, %edx
        xor     %r8d, %r8d
1:      mov     (%rsi, %rdx, 8), %rax
        cmp     %rdx, %rax
        je      2f                              # pfn == mfn would hide mix-ups
        cmp     %rdx, (%rdi, %rax, 8)
        je      3f
2:      inc     %r8
3:      inc     %rdx
        cmp     %rcx, %rdx
        jb      1b
        show    m2p_mismatches, %r8
        mov     (%rsi), %rax
        lea     (%rdi, %rax, 8), %rdi
        try     movq $0, (%rdi)                 # trap 1: the M2P is read-only
        # the mapping ends at a multiple of 4 MiB
        try     movb 0x3fffff, %al
        try     movb 0x400000, %al              # trap 2: not present, read
        try     movb %al, 0x400123              # trap 3: not present, write
        mov     $0x400000, %eax
        try     call *%rax                      # trap 4: not present, fetch
        mov     $stack_top - 8, %rsp
        # shared_info
        call    map_shared_info
        show    mapped, %rax
        mov     shared_info, %rbx
        movzbl  1(%rbx), %eax
        show    mask0, %rax
        movzbl  31*64+1(%rbx), %eax
        show    mask31, %rax
        movzbl  (%rbx), %eax
        show    pending0, %rax
        show    pending_ports, 0x800(%rbx)
        mov     0xc00(%rbx), %eax               # wc_version
        show    wc_version, %rax
        mov     0xc04(%rbx), %eax               # wc_sec
        show    wc_sec, %rax
        # a hypercall through its slot of the page: keeps everything but rax
        mov     $0, %edi                        # XENVER_version
        mov     $0x1111, %esi
        mov     $0x2222, %edx
        mov     $0x3333, %r10d
        mov     $0x4444, %r8d
        mov     $0x5555, %ecx
        mov     $0x6666, %r11d
        call    hypercall_page + 32 * __HYPERVISOR_xen_version
        show    version, %rax
        show    kept_rdi, %rdi
        show    kept_rsi, %rsi
        show    kept_rdx, %rdx
        show    kept_r10, %r10
        show    kept_r8, %r8
        show    kept_rcx, %rcx
        show    kept_r11, %r11
        # a bare SYSCALL leaves the return address in rcx and the flags in r11
        mov     $__HYPERVISOR_xen_version, %eax
        mov     $0, %edi
        stc
        syscall
after_syscall:
        setc    %bl
        movzbl  %bl, %ebx
        show    carry, %rbx
        show    rcx, %rcx
        show    r11, %r11
        mov     $62, %eax
        syscall
        show    unknown, %rax
        mov     $-1, %rax
        syscall
        show    garbage, %rax
        ret
