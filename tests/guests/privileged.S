# Instructions that only ring 0 may run: emulated for the kernel, or a #GP.
        .macro  rdmsr64 number:req              # rax
        mov     $\number, %ecx
        try     rdmsr
        shl     $32, %rdx
        or      %rdx, %rax
        .endm
        .macro  traps_so_far name:req
        show    \name, trap_count
        .endm
main:
        call    install_upcall
        # without a handler for #GP unknown MSRs read as zero
        mov     $0x1234, %ecx
        mov     $-1, %rax
        rdmsr
        show    faked, %rax
        call    install_traps
        # CLI and STI want IOPL 1
        try     cli
        traps_so_far cli_refused
        hypercall __HYPERVISOR_physdev_op, $6, $iopl    # PHYSDEVOP_set_iopl
        try     cli
        mov     shared_info, %rax
        movzbl  1(%rax), %eax
        show    mask_after_cli, %rax
        movb    $0, shared_page + 1
        try     cli
        movzbl  shared_page + 1, %eax
        show    mask_after_cli2, %rax
        try     sti
        pushfq
        pop     %rax
        show    flags_after_sti, %rax
        movb    $1, shared_page + 1
        traps_so_far after_cli
        # control registers
        try     mov %cr0, %rax
        show    cr0, %rax
        try     mov %cr3, %r9
        show    cr3, %r9
        try     mov %cr4, %rax
        show    cr4, %rax
        mov     $0x123456789000, %r12
        try     mov %r12, %cr2
        try     mov %cr2, %r15
        show    cr2, %r15
        show    cr2_shared, shared_page + 16
        try     clts
        mov     $0x66c, %eax
        try     mov %rax, %cr4                  # TSD and DE
        try     mov %cr4, %rax
        show    cr4_changed, %rax
        mov     $0x660, %eax
        try     mov %rax, %cr4
        traps_so_far after_cr
        # task switched: the next use of the FPU is #NM, once
        hypercall __HYPERVISOR_fpu_taskswitch, $1
        try     mov %cr0, %rax
        show    cr0_ts, %rax
        try     fninit                          # trap: #NM
        fninit
        try     mov %cr0, %rax
        show    cr0_after_nm, %rax
        hypercall __HYPERVISOR_fpu_taskswitch, $1
        try     clts
        try     movaps %xmm0, %xmm1
        traps_so_far after_nm
        # debug registers
        mov     $0x100000, %eax
        try     mov %rax, %db1
        try     mov %db1, %rbx
        show    db1, %rbx
        try     mov %db6, %rbx
        show    db6, %rbx
        # MSRs
        rdmsr64 0xc0000080
        show    efer, %rax
        rdmsr64 0x277
        show    pat, %rax
        rdmsr64 0x1b
        show    apic_base, %rax
        rdmsr64 0x1a0
        show    misc_enable, %rax
        mov     $0x13579bdf, %eax
        mov     $0x2468, %edx
        mov     $0xc0000100, %ecx
        try     wrmsr
        rdmsr64 0xc0000100
        show    fs_base, %rax
        mov     $shutdown_reason, %eax
        xor     %edx, %edx
        mov     $0xc0000101, %ecx
        try     wrmsr
        movl    $0x77, shutdown_reason
        mov     %gs:0, %eax
        show    through_gs, %rax
        mov     $0x5000, %eax
        mov     $0xc0000102, %ecx
        try     wrmsr
        rdmsr64 0xc0000102
        show    shadow_gs, %rax
        rdtsc64
        mov     %rax, %r8
        rdmsr64 0x10
        cmp     %r8, %rax
        seta    %bl
        movzbl  %bl, %ebx
        show    tsc_goes_on, %rbx
        traps_so_far after_msr
        rdmsr64 0x1234                          # trap: #GP now that there is a handler
        mov     $0x277, %ecx
        try     wrmsr                           # trap
        mov     $0xc0000100, %ecx
        mov     $0x80000000, %edx
        try     wrmsr                           # trap: not canonical
        mov     $0xc0000080, %ecx
        xor     %eax, %eax
        xor     %edx, %edx
        try     wrmsr                           # trap: EFER cannot change
        traps_so_far after_bad_msr
        # ports: IOPL 1 is enough for the kernel, and nothing is there
        mov     $-1, %rax
        mov     $0x1122334455667788, %rax
        try     inb $0x60, %al
        show    inb, %rax
        mov     $0x1122334455667788, %rax
        mov     $0x3f8, %edx
        try     inw %dx, %ax
        show    inw, %rax
        try     inl %dx, %eax
        show    inl, %rax
        mov     $0xcf8, %edx
        mov     $0x80001234, %eax
        try     outl %eax, %dx
        xor     %eax, %eax
        try     inl %dx, %eax
        show    pci_address, %rax
        try     outb %al, $0x80
        mov     $3, %ecx
        mov     $insb_buffer, %edi
        mov     $0x3f8, %edx
        try     rep insb
        show    insb_rcx, %rcx
        show    insb, insb_buffer
        mov     $10000, %ecx
        mov     $0x100000, %esi
        try     rep outsb
        show    outsb_rsi, %rsi
        traps_so_far after_io
        mov     $0x666666666000, %rdi
        mov     $2, %ecx
        try     rep insb                        # trap: #PF
        movl    $0, iopl
        hypercall __HYPERVISOR_physdev_op, $6, $iopl
        try     inb $0x60, %al                  # trap: #GP
        traps_so_far after_bad_io
        # others
        try     wbinvd
        traps_so_far after_wbinvd
        try     hlt                             # traps from here on
        try     invlpg 0x100000
        try     invd
        try     lgdt 0x100000
        try     lmsw %ax
        try     ltr %ax
        try     swapgs
        try     mov %cr8, %rax
        traps_so_far after_refused
        # forced emulation
        mov     $0x40000000, %eax
        xor     %ecx, %ecx
        try     .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2
        show    cpuid_eax, %rax
        show    cpuid_ebx, %rbx
        mov     $0x40000000, %eax
        cpuid
        show    native_ebx, %rbx
        try     .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90, 0x90          # trap: #UD
        traps_so_far end
        ret
        .data
iopl:   .long   1
        .balign 8
insb_buffer: .quad 0
        .text
