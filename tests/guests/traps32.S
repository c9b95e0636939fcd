# Every exception a 32-bit guest can make in kernel mode, each logged and stepped over by the handler.
main:
        call    map_shared_info
        call    install_traps
        xor     %ebx, %ebx
at_de:  try     div %ebx                        # 0
at_int3: try    int3                            # 1
at_ud:  try     ud2                             # 2
at_gp:  try     hlt                             # 3
at_pf_read: try movb 0x6666008, %bl             # 4
at_pf_write: try movb %bl, 0x6666009            # 5
        mov     $0x0800, %eax
at_selector: try mov %eax, %ds                  # 6: beyond the GDT
at_int22: try   int $0x22                       # 7: DPL 1 gate
at_int21: try   int $0x21                       # 8: DPL 3 gate
at_int80: try   int $0x80                       # 9: masks events
at_int13: try   int $13                         # 10: the #GP gate by hand, DPL 0
at_int99: try   int $0x99                       # 11: nothing there
        mov     $0xe010, %eax
at_ring0: try   mov %eax, %ss                   # 12: Xen's own segment
        movb    $0, shared_page + 1             # unmask: the saved mask shows it
at_unmasked: try ud2                            # 13
at_unmasked80: try int $0x80                    # 14
        movb    $1, shared_page + 1
        mov     %cr0, %eax
        show    cr0, %eax
        mov     %cr3, %eax
        show    cr3, %eax
        # many in a row stay what they are
        mov     $20, %ebp
1:      try     hlt                             # 15..34
        dec     %ebp
        jnz     1b
        ret
