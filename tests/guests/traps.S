# Every exception a guest can make in kernel mode, each logged and stepped over by the handler.
main:
        call    map_shared_info
        mov     $0x1234567890abcdef, %rcx
        push    %rcx
        call    install_traps
        pop     %rcx
        mov     $0x1122334455667788, %r11
        xor     %ebx, %ebx
at_de:  try     div %ebx                        # 0
at_int3: try    int3                            # 1
at_ud:  try     ud2                             # 2
at_gp:  try     hlt                             # 3
        mov     $0x666666666008, %rax
at_pf_read: try movb (%rax), %bl                # 4
at_pf_write: try movb %bl, (%rax)               # 5
        mov     $0x0123456789abcdef, %rax
at_noncanonical: try movb (%rax), %bl           # 6
        mov     $0x0800, %eax
at_selector: try mov %eax, %ds                  # 7: beyond the GDT
at_int22: try   int $0x22                       # 8: DPL 0 gate
at_int21: try   int $0x21                       # 9: DPL 3 gate
at_int80: try   int $0x80                       # 10: DPL 3, masks events
at_int13: try   int $13                         # 11: the #GP gate by hand
at_int14: try   int $14                         # 12
at_int6: try    int $6                          # 13
at_int99: try   int $0x99                       # 14: nothing there
at_int3_long: try .byte 0xcd, 3                 # 15: through its own gate, like int3
at_icebp: try   .byte 0xf1                      # 16
        mov     $M2P + (1 << 40) , %rax
at_xen: try     movb (%rax), %bl                # 17: Xen's own area
        mov     $M2P + 0x7000000000, %rax
at_hole: try    movb (%rax), %bl                # 18: M2P of no memory
        mov     $0xffff82d040000000, %rax
at_entry: try   jmp *%rax                       # 19
        # stack that is not aligned
        mov     %rsp, %rbp
        sub     $0x103, %rsp
at_unaligned: try ud2                           # 20
        mov     %rbp, %rsp
        # single step, one instruction
        movq    $1, trap_return
        movq    $clear_tf, trap_hook
        pushfq
        orl     $0x100, (%rsp)
        popfq
        nop
stepped: nop
        movq    $0, trap_hook
        movq    $0, trap_return
        # many in a row stay what they are
        mov     $20, %ebp
1:      try     hlt                             # 22..41
        dec     %ebp
        jnz     1b
        mov     $20, %ebp
        ret

clear_tf:                                       # rflags of the frame, past three saved registers and this return
        andl    $~0x100, 8 + 3*8 + 6*8(%rsp)
        ret
