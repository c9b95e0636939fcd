# Instructions on which the engine and the CPU that pvemu shows differ, and exceptions that are easy to get wrong.
# For both widths: the test puts in %AX and the like.
main:
        movl    $0, gate_80 + GATE_ADDRESS      # the end of the table: the last one is not set
        call    install_traps
        hypercall 33, $6, $iopl                 # PHYSDEVOP_set_iopl: 1
        MAP                                     # `gone` not at all, `read_only` read-only
        try     int $1                          # 0: its gate is not for guests, nor is the guest's own
        try     int $0x81                       # 1: a fault of the CPU's, with RF
        try     int $0x80                       # 2: Xen's slow path, without RF
        try     .byte 0xf0, 0x0f, 0x20, 0xc0    # 3: lock mov %cr0, %eax
        try     .byte 0x0f, 0x20, 0xc8          # 4: mov %cr1, %eax
        try     .byte 0x0f, 0x22, 0xe8          # 5: mov %eax, %cr5
        try     .byte 0xf0, 0xf4                # 6: lock hlt
        try     .byte 0xf0, 0x0f, 0x32          # 7: lock rdmsr
        try     .byte 0xc7, 0xf8, 0, 0, 0, 0    # 8: xbegin
        mov     $0x80, %edx
        mov     $gone - 2, %edi
        try     insl                            # 9: crosses into nothing
        mov     $read_only, %edi
        try     insl                            # 10: to a page that may not be written
        mov     XEN, %DI
        try     insl                            # 11: Xen's: not even a page fault
        mov     $7, %ecx
        mov     $gone - 2, %edi
        try     rep insw                        # 12: the second one faults
        show    rep_left, %CX
        try     incl gone                       # 13: asks for both rights at once
        try     lock btsl $1, gone              # 14: so does this one
        try     btl $1, gone                    # 15: reads alone
        show    traps, trap_count
        poweroff

        .pushsection .data
        .balign 8
iopl:   .long   1
        .bss
        .balign 4096
        .skip   4096
gone:   .skip   4096
read_only: .skip 4096
        .popsection
