# Breakpoints of the debug registers, in the kernel of either width; A, B and C are rax, rbx and rcx or their halves.
        .macro  dr number:req, value:req
        mov     \value, A
        mov     A, %db\number
        .endm
        .macro  dr6 name:req                    # show it, and begin anew
        mov     %db6, A
        show    \name, A
        dr      6, $0
        .endm

main:   call    install_traps
        # four bytes, stores only
        dr      0, $watched
        dr      7, $0x000d0002
at_store: try   movl $5, watched                # 0
at_load: try    movl watched, %ebx              # none
at_beside: try  movl $6, watched + 4            # none
at_last: try    movb $7, watched + 3            # 1
at_across: try  movl $0x01020304, watched - 2   # 2
        dr6     dr6_stores
        movl    watched, %eax
        show    watched, A
        # loads and stores
        dr      7, $0x000f0002
        xor     %eax, %eax
at_both: try    movl watched, %ebx              # 3
at_add: try     addl $1, watched                # 4
        dr6     dr6_both
        # flags pushed to a watched page show no step
        mov     SP, B
        mov     $watched + 64, SP
        pushf
        pop     A
        mov     B, SP
        and     $0x100, A
        show    pushed_tf, A
        # an instruction
        dr      1, $target
        dr      7, $0x00000008
        call    set_resume
target: nop                                     # 5
resume: call    clear_resume
        dr6     dr6_fetch
        # in a watched page all goes on, hypercalls too
        hypercall __HYPERVISOR_xen_version, $0, $0
        show    version, A
        # an I/O port
        hypercall __HYPERVISOR_physdev_op, $6, $iopl
        mov     %cr4, A
        or      $8, A
        mov     A, %cr4
        dr      2, $0x80
        dr      7, $0x02000020
        mov     $0x41, %al
at_out: try     outb %al, $0x80                 # 6
at_in:  try     inb $0x80, %al                  # 7
at_other: try   inb $0x81, %al                  # none
        mov     $3, %ecx
        mov     $0x80, %edx
        mov     $buffer, DI
at_ins: try     rep insb                        # 8: stops after one; the handler goes on behind it
        show    left, C
        dr6     dr6_port
        mov     %db7, A
        show    dr7_io, A
        # a load of SS puts it off by one instruction; what enters Xen then loses it
        mov     %ss, selector
        dr      3, $selector
        dr      7, $0x70000080
        call    set_resume_ss
at_ss:  mov     selector, %ss
        nop                                     # 9, behind this
resume_ss: dr6  dr6_ss
        movl    $behind_int3, trap_resume
        mov     selector, %ss
        int3                                    # 10: #BP
behind_int3: dr6 dr6_lost
        dr      7, $0
at_unwatched: try movl $9, watched              # none
        ret

set_resume:
        mov     $resume, A
        mov     A, trap_resume
        ret
set_resume_ss:
        mov     $resume_ss, A
        mov     A, trap_resume
        ret
clear_resume:
        xor     %eax, %eax
        mov     A, trap_resume
        ret

        .data
        .balign 4096
        .skip   2048
watched: .quad  0, 0
        .skip   256
buffer: .skip   16
selector: .quad 0
iopl:   .quad   1
        .balign 4096
        .text
