# RDTSC in kernel and user mode, with and without CR4.TSD; for both widths (the test puts in %AX and the like, and how user mode is entered).
main:
        call    install_traps
        mov     $0x40000003, %eax
        xor     %ecx, %ecx
        cpuid
        show    features, %AX
        show    mode, %BX
        show    khz, %CX
        show    incarnation, %DX
        mov     $0x40000003, %eax
        mov     $1, %ecx
        cpuid
        show    offset, %AX
        mov     $-1, %AX
        mov     $-1, %DX
        rdtsc
        show    early, %AX
        show    early_high, %DX
        mov     %eax, %ebx
        rdtsc
        sub     %ebx, %eax
        show    steps, %AX
        mov     $0xc0000103, %ecx               # TSC_AUX
        mov     $0x1234, %eax
        xor     %edx, %edx
        try     wrmsr
        rdtscp
        show    aux, %CX
        mov     %cr4, %AX
        or      $4, %eax
        try     mov %AX, %cr4
        xor     %ecx, %ecx
        try     rdtscp
        show    aux_tsd, %CX
        try     rdtsc
        mov     $0x10, %ecx
        mov     %eax, %ebx
        try     rdmsr
        sub     %ebx, %eax
        show    msr_behind, %AX
        show    traps, trap_count
        mov     $advance, %eax
        mov     %AX, trap_hook
        USER_MODE

        .pushsection .data
        .balign 4096
user_page:
user:   rdtsc                                   # a #GP each while CR4.TSD is set
u1:     rdtscp
u2:     int     $0x21                           # clears it
u3:     rdtscp
        mov     %eax, user_saw
        mov     %edx, user_saw + 4
        mov     %ecx, user_saw + 8
        rdtsc
        mov     %eax, user_saw + 12
u4:     int     $0x21
        .balign 8
user_saw: .long 0, 0, 0, 0
        .balign 2048
user_stack_top:
        .balign 4096
        .popsection

advance:                                        # after each trap user mode goes on at the next label
        mov     trap_count, %eax
        cmp     $3, %eax
        jne     1f
        mov     %cr4, %AX
        and     $~4, %eax
        mov     %AX, %cr4
        mov     $3, %eax
1:      mov     next - 4(, %eax, 4), %eax
        mov     %AX, trap_resume
        test    %eax, %eax
        jz      1f
        ret
1:      poweroff

        .pushsection .data
        .balign 4
next:   .long   u1, u2, u3, 0
        .popsection
        .bss
        .balign 4096
        .skip   4096
kernel_stack_top:
        .text
