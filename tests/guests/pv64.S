# Prelude of every micro-guest: Xen notes, hypercalls, the console, a trap table that logs, an event upcall that logs.
#
# A guest is `main:` and what it does there. Tests read the logs (trap_log, upcall_log) and any labelled memory, and the
# lines `name=hex` that `show` prints. Registers are the guest's own: macros say what they clobber.
# Linked at 0x100000 with VIRT_BASE 0, so that a virtual address is its pfn << 12.

        .code64
        .set    __HYPERVISOR_set_trap_table, 0
        .set    __HYPERVISOR_mmu_update, 1
        .set    __HYPERVISOR_set_gdt, 2
        .set    __HYPERVISOR_stack_switch, 3
        .set    __HYPERVISOR_set_callbacks, 4
        .set    __HYPERVISOR_fpu_taskswitch, 5
        .set    __HYPERVISOR_set_debugreg, 8
        .set    __HYPERVISOR_get_debugreg, 9
        .set    __HYPERVISOR_memory_op, 12
        .set    __HYPERVISOR_update_va_mapping, 14
        .set    __HYPERVISOR_set_timer_op, 15
        .set    __HYPERVISOR_xen_version, 17
        .set    __HYPERVISOR_console_io, 18
        .set    __HYPERVISOR_grant_table_op, 20
        .set    __HYPERVISOR_vm_assist, 21
        .set    __HYPERVISOR_iret, 23
        .set    __HYPERVISOR_vcpu_op, 24
        .set    __HYPERVISOR_set_segment_base, 25
        .set    __HYPERVISOR_mmuext_op, 26
        .set    __HYPERVISOR_sched_op, 29
        .set    __HYPERVISOR_callback_op, 30
        .set    __HYPERVISOR_event_channel_op, 32
        .set    __HYPERVISOR_physdev_op, 33

        .set    M2P, 0xffff800000000000
        .set    DOMID_SELF, 0x7ff0
        .set    SI_nr_pages, 32
        .set    SI_shared_info, 40
        .set    SI_flags, 48
        .set    SI_store_mfn, 56
        .set    SI_console_mfn, 72
        .set    SI_console_evtchn, 80
        .set    SI_pt_base, 88
        .set    SI_nr_pt_frames, 96
        .set    SI_mfn_list, 104
        .set    PTE_P, 1
        .set    PTE_RW, 2
        .set    PTE_US, 4

# ---- notes -----------------------------------------------------------------------------------------------------------
        .macro  note type:req, directive:req, value:vararg
        .pushsection .note.Xen, "a", @note
        .balign 4
        .long   4, 2f - 1f, \type
        .asciz  "Xen"
1:      \directive \value
2:      .balign 4
        .popsection
        .endm

        note    6, .asciz, "micro"              # GUEST_OS
        note    5, .asciz, "xen-3.0"            # XEN_VERSION
        note    8, .asciz, "generic"            # LOADER
        note    3, .quad, 0                     # VIRT_BASE
        note    2, .quad, hypercall_page        # HYPERCALL_PAGE

# ---- macros ----------------------------------------------------------------------------------------------------------
        .macro  hypercall number:req, a1, a2, a3, a4, a5
        .ifnb   \a1
        mov     \a1, %rdi
        .endif
        .ifnb   \a2
        mov     \a2, %rsi
        .endif
        .ifnb   \a3
        mov     \a3, %rdx
        .endif
        .ifnb   \a4
        mov     \a4, %r10
        .endif
        .ifnb   \a5
        mov     \a5, %r8
        .endif
        mov     $\number, %eax
        syscall                                 # clobbers rax rcx r11 and the arguments' registers
        .endm

        # name=%016x on the console; keeps all registers
        .macro  show name:req, value:req
        push    \value
        push    $9f
        call    show_value
        .pushsection .rodata
9:      .asciz  "\name"
        .popsection
        .endm

        # one instruction that may fault: the handler logs it and goes on behind it; keeps all registers
        .macro  try instruction:vararg
        movq    $8f, trap_resume
        \instruction
8:      movq    $0, trap_resume
        .endm

        .macro  shutdown reason:req             # 0 poweroff, 1 reboot, 3 crash
        movl    $\reason, shutdown_reason
        hypercall __HYPERVISOR_sched_op, $2, $shutdown_reason
        .endm

        .macro  poweroff
        shutdown 0
        .endm

        # rax = mfn of the page at \address; clobbers rcx
        .macro  mfn_of address:req
        mov     start_info, %rcx
        mov     SI_mfn_list(%rcx), %rcx
        mov     $\address, %eax
        shr     $12, %eax
        mov     (%rcx, %rax, 8), %rax
        .endm

        # change the mapping of a page of this image: flags in the low bits; keeps nothing; result in rax
        .macro  map_page address:req, mfn:req, flags:req
        mov     \mfn, %rsi
        shl     $12, %rsi
        mov     $\flags, %rdx
        or      %rdx, %rsi
        hypercall __HYPERVISOR_update_va_mapping, $\address, , $2   # UVMF_INVLPG
        .endm

# ---- entry -----------------------------------------------------------------------------------------------------------
        .text
        .globl  _start
_start:
        mov     %rax, boot_registers + 0
        mov     %rbx, boot_registers + 8
        mov     %rcx, boot_registers + 16
        mov     %rdx, boot_registers + 24
        mov     %rsi, boot_registers + 32
        mov     %rdi, boot_registers + 40
        mov     %rbp, boot_registers + 48
        mov     %rsp, boot_registers + 56
        mov     %r8, boot_registers + 64
        mov     %r9, boot_registers + 72
        mov     %r10, boot_registers + 80
        mov     %r11, boot_registers + 88
        mov     %r12, boot_registers + 96
        mov     %r13, boot_registers + 104
        mov     %r14, boot_registers + 112
        mov     %r15, boot_registers + 120
        pushfq
        popq    boot_registers + 128
        mov     %cs, boot_registers + 136
        mov     %ss, boot_registers + 144
        mov     %ds, boot_registers + 152
        mov     %es, boot_registers + 160
        mov     %fs, boot_registers + 168
        mov     %gs, boot_registers + 176
        mov     %rsi, start_info
        mov     $stack_top, %rsp
        mov     SI_console_mfn(%rsi), %rax
        mov     $M2P, %rcx
        mov     (%rcx, %rax, 8), %rax
        shl     $12, %rax
        mov     %rax, console_ring
        mov     SI_console_evtchn(%rsi), %eax
        mov     %eax, console_port
        call    main
        poweroff

# ---- console ---------------------------------------------------------------------------------------------------------
show_value:                                     # [rsp+8] name, [rsp+16] value
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r11
        mov     7*8+8(%rsp), %rsi
        call    put_string
        mov     $'=', %al
        call    put_byte
        mov     7*8+16(%rsp), %rbx
        mov     $16, %ecx
1:      rol     $4, %rbx
        mov     %bl, %al
        and     $15, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     2f
        add     $'a' - '9' - 1, %al
2:      call    put_byte
        dec     %ecx
        jnz     1b
        mov     $'\n', %al
        call    put_byte
        call    console_kick
        pop     %r11
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        ret     $16

put_string:                                     # rsi; clobbers rax rdx rdi
1:      lodsb
        test    %al, %al
        jz      2f
        call    put_byte
        jmp     1b
2:      ret

put_byte:                                       # al; clobbers rdx rdi
        mov     console_ring, %rdi
        mov     1024+2048+12(%rdi), %edx        # out_prod
        incl    1024+2048+12(%rdi)
        and     $2047, %edx
        mov     %al, 1024(%rdi, %rdx)
        ret

console_kick:
        hypercall __HYPERVISOR_event_channel_op, $4, $console_port      # EVTCHNOP_send
        ret

# ---- traps -----------------------------------------------------------------------------------------------------------
        .set    TRAP_RECORD, 128
        .set    MAX_TRAPS, 64

        .macro  stub vector:req, has_error:req
trap_\vector:
        mov     %rsp, trap_entry_rsp
        .if     \has_error == 0
        pop     %rcx
        pop     %r11
        push    $-1
        push    %r11
        push    %rcx
        .endif
        push    $\vector
        jmp     trap_common
        .endm

        .irp    v, 0, 1, 2, 3, 4, 5, 6, 7, 9, 16, 18, 19, 20, 0x21, 0x22, 0x80
        stub    \v, 0
        .endr
        .irp    v, 8, 10, 11, 12, 13, 14, 17
        stub    \v, 1
        .endr

        # stack: vector rcx r11 error rip cs|mask rflags rsp ss, which becomes an iret_context
trap_common:
        push    %rax
        push    %rbx
        push    %rdx
        mov     trap_count, %rbx
        cmp     $MAX_TRAPS, %rbx
        jae     3f
        incq    trap_count
        imul    $TRAP_RECORD, %rbx
        add     $trap_log, %rbx
        xor     %edx, %edx
1:      mov     24(%rsp, %rdx, 8), %rax
        mov     %rax, (%rbx, %rdx, 8)
        inc     %edx
        cmp     $9, %edx
        jb      1b
        mov     trap_entry_rsp, %rax
        mov     %rax, 72(%rbx)
        pushfq
        popq    80(%rbx)
        mov     shared_info, %rdx
        test    %rdx, %rdx
        jz      2f
        movzbl  1(%rdx), %eax                   # evtchn_upcall_mask
        mov     %rax, 88(%rbx)
        mov     16(%rdx), %rax                  # arch.cr2
        mov     %rax, 96(%rbx)
2:      mov     %cs, 104(%rbx)
        mov     %ss, 112(%rbx)
        mov     trap_hook, %rax
        test    %rax, %rax
        jz      4f
        call    *%rax
4:      mov     trap_resume, %rax
        test    %rax, %rax
        jnz     5f
        cmpq    $0, trap_return
        jne     6f
3:      shutdown 3
5:      mov     %rax, 24 + 4*8(%rsp)            # rip
6:      mov     24 + 1*8(%rsp), %rax            # rcx
        mov     24 + 2*8(%rsp), %rdx            # r11
        mov     %rdx, 24 + 1*8(%rsp)
        mov     %rax, 24 + 2*8(%rsp)
        movq    $0, 24 + 3*8(%rsp)              # flags
        pop     %rdx
        pop     %rbx
        mov     (%rsp), %rax
        mov     %rax, 8(%rsp)
        pop     %rax
        mov     $__HYPERVISOR_iret, %eax
        syscall

install_traps:                                  # clobbers what hypercalls do
        hypercall __HYPERVISOR_set_trap_table, $trap_table
        ret

map_shared_info:                                # at shared_page; clobbers what hypercalls do
        mov     start_info, %rax
        mov     SI_shared_info(%rax), %rsi
        or      $PTE_P | PTE_RW | PTE_US, %rsi
        hypercall __HYPERVISOR_update_va_mapping, $shared_page, , $2
        movq    $shared_page, shared_info
        ret

        .macro  gate vector:req, flags:req
        .byte   \vector, \flags
        .word   0xe033
        .long   0
        .quad   trap_\vector
        .endm

        .data
        .balign 8
trap_table:
        .irp    v, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 0x22
        gate    \v, 0
        .endr
        .irp    v, 3, 4, 0x21
        gate    \v, 3
        .endr
gate_80: gate   0x80, 7                         # DPL 3, masks events
        .quad   0, 0

# ---- events ----------------------------------------------------------------------------------------------------------
        .text
install_upcall:                                 # maps shared_info too
        call    map_shared_info
        hypercall __HYPERVISOR_set_callbacks, $event_upcall, $failsafe, $0
        ret

failsafe:
        show    failsafe, $1
        shutdown 3

        .macro  bind_timer                      # eax = port of VIRQ_TIMER
        hypercall __HYPERVISOR_event_channel_op, $1, $bind_virq_arg
        mov     bind_virq_arg + 8, %eax
        .endm

        .macro  rdtsc64                         # rax; clobbers rdx
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        .endm

event_upcall:
        push    %rax
        push    %rbx
        push    %rdx
        push    %rsi
        mov     shared_info, %rsi
        mov     vcpu_info, %rax
        test    %rax, %rax
        cmovz   %rsi, %rax
        movb    $0, (%rax)                      # evtchn_upcall_pending
        xor     %ebx, %ebx
        xchg    %rbx, 8(%rax)                   # evtchn_pending_sel
        xor     %edx, %edx
        bt      $0, %rbx
        jnc     1f
        xchg    %rdx, 0x800(%rsi)               # evtchn_pending[0]
1:      mov     upcall_count, %rbx
        incq    upcall_count
        and     $31, %ebx
        shl     $5, %ebx
        mov     %rdx, upcall_log(%rbx)
        movzbl  1(%rax), %eax
        mov     %rax, upcall_log + 8(%rbx)
        mov     4*8 + 3*8(%rsp), %rax           # cs|saved mask of the frame
        mov     %rax, upcall_log + 16(%rbx)
        rdtsc64
        mov     %rax, upcall_log + 24(%rbx)
        pop     %rsi
        pop     %rdx
        pop     %rbx
        pop     %rax
        sub     $16, %rsp                       # rcx r11 rip .. becomes rax r11 rcx flags rip ..
        mov     %rax, (%rsp)
        mov     24(%rsp), %rax
        mov     %rax, 8(%rsp)
        movq    $0, 24(%rsp)
        mov     $__HYPERVISOR_iret, %eax
        syscall

        .data
        .balign 8
bind_virq_arg:
        .long   0, 0, 0                         # VIRQ_TIMER, vcpu 0, port
shutdown_reason:
        .long   0
console_port:
        .long   0
        .balign 8
start_info:     .quad 0
console_ring:   .quad 0
shared_info:    .quad 0
vcpu_info:      .quad 0
trap_resume:    .quad 0
trap_return:    .quad 0                         # not 0: return to the instruction itself
trap_hook:      .quad 0                         # called by the handler before it returns
trap_entry_rsp: .quad 0

        .bss
        .balign 4096
        .globl  hypercall_page
hypercall_page: .skip 4096
shared_page:    .skip 4096
trap_log:       .skip MAX_TRAPS * TRAP_RECORD
trap_count:     .skip 8
upcall_log:     .skip 32 * 32
upcall_count:   .skip 8
boot_registers: .skip 256
        .balign 4096
stack_bottom:   .skip 4 * 4096
stack_top:

        .text
