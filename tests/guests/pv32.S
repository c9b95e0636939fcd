# Prelude of every 32-bit micro-guest, as pv64.S is of the 64-bit ones: notes, hypercalls, the console, traps that log.
# Linked at 0x100000 with VIRT_BASE 0, so that a virtual address is its pfn << 12.

        .code32
        .set    __HYPERVISOR_set_trap_table, 0
        .set    __HYPERVISOR_mmu_update, 1
        .set    __HYPERVISOR_stack_switch, 3
        .set    __HYPERVISOR_set_callbacks, 4
        .set    __HYPERVISOR_update_va_mapping, 14
        .set    __HYPERVISOR_xen_version, 17
        .set    __HYPERVISOR_iret, 23
        .set    __HYPERVISOR_set_segment_base, 25
        .set    __HYPERVISOR_mmuext_op, 26
        .set    __HYPERVISOR_sched_op, 29
        .set    __HYPERVISOR_event_channel_op, 32

        .set    M2P, 0xf5800000
        .set    DOMID_SELF, 0x7ff0
        .set    SI_nr_pages, 32
        .set    SI_shared_info, 36
        .set    SI_console_mfn, 52
        .set    SI_console_evtchn, 56
        .set    SI_pt_base, 60
        .set    SI_nr_pt_frames, 64
        .set    SI_mfn_list, 68
        .set    PTE_P, 1
        .set    PTE_RW, 2
        .set    PTE_US, 4
        .set    KERNEL_CS, 0xe019
        .set    KERNEL_DS, 0xe021
        .set    USER_CS, 0xe02b
        .set    USER_DS, 0xe033

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
        note    9, .asciz, "yes,bimodal"        # PAE_MODE
        note    3, .long, 0                     # VIRT_BASE
        note    2, .long, hypercall_page        # HYPERCALL_PAGE

        .macro  hypercall number:req, a1, a2, a3, a4, a5
        .ifnb   \a1
        mov     \a1, %ebx
        .endif
        .ifnb   \a2
        mov     \a2, %ecx
        .endif
        .ifnb   \a3
        mov     \a3, %edx
        .endif
        .ifnb   \a4
        mov     \a4, %esi
        .endif
        .ifnb   \a5
        mov     \a5, %edi
        .endif
        mov     $\number, %eax
        int     $0x82                           # clobbers eax and the arguments' registers
        .endm

        # name=%08x on the console; keeps all registers
        .macro  show name:req, value:req
        pushl   \value
        pushl   $9f
        call    show_value
        .pushsection .rodata
9:      .asciz  "\name"
        .popsection
        .endm

        # one instruction that may fault: the handler logs it and goes on behind it; keeps all registers
        .macro  try instruction:vararg
        movl    $8f, trap_resume
        \instruction
8:      movl    $0, trap_resume
        .endm

        .macro  shutdown reason:req
        movl    $\reason, shutdown_reason
        hypercall __HYPERVISOR_sched_op, $2, $shutdown_reason
        .endm

        .macro  poweroff
        shutdown 0
        .endm

        # map the page of this image at \address as its own, with flags; result in eax, clobbers what hypercalls do
        .macro  remap address:req, flags:req
        mov     start_info, %ecx
        mov     SI_mfn_list(%ecx), %ecx
        mov     $\address, %eax
        shr     $12, %eax
        mov     (%ecx, %eax, 4), %ecx
        shl     $12, %ecx
        or      $\flags, %ecx
        hypercall __HYPERVISOR_update_va_mapping, $\address, , $0, $2   # UVMF_INVLPG
        .endm

        .text
        .globl  _start
_start:
        mov     %eax, boot_registers + 0
        mov     %ebx, boot_registers + 4
        mov     %ecx, boot_registers + 8
        mov     %edx, boot_registers + 12
        mov     %esi, boot_registers + 16
        mov     %edi, boot_registers + 20
        mov     %ebp, boot_registers + 24
        mov     %esp, boot_registers + 28
        pushf
        popl    boot_registers + 32
        mov     %cs, boot_registers + 36
        mov     %ss, boot_registers + 40
        mov     %ds, boot_registers + 44
        mov     %es, boot_registers + 48
        mov     %fs, boot_registers + 52
        mov     %gs, boot_registers + 56
        mov     %esi, start_info
        mov     $stack_top, %esp
        mov     SI_console_mfn(%esi), %eax
        mov     M2P(, %eax, 4), %eax
        shl     $12, %eax
        mov     %eax, console_ring
        mov     SI_console_evtchn(%esi), %eax
        mov     %eax, console_port
        call    main
        poweroff

show_value:                                     # [esp+4] name, [esp+8] value
        pushal
        mov     8*4+4(%esp), %esi
1:      lodsb
        test    %al, %al
        jz      2f
        call    put_byte
        jmp     1b
2:      mov     $'=', %al
        call    put_byte
        mov     8*4+8(%esp), %ebx
        mov     $8, %ecx
1:      rol     $4, %ebx
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
        hypercall __HYPERVISOR_event_channel_op, $4, $console_port      # EVTCHNOP_send
        popal
        ret     $8

put_byte:                                       # al; clobbers edx edi
        mov     console_ring, %edi
        mov     1024+2048+12(%edi), %edx        # out_prod
        incl    1024+2048+12(%edi)
        and     $2047, %edx
        mov     %al, 1024(%edi, %edx)
        ret

        .set    TRAP_RECORD, 64
        .set    MAX_TRAPS, 64

        .macro  stub vector:req, has_error:req
trap_\vector:
        mov     %esp, %ss:trap_entry_esp
        .if     \has_error == 0
        push    $-1
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

trap_common:                                    # stack: vector error eip cs|mask eflags [esp ss]
        push    %ds
        push    %es
        push    %eax
        push    %ebx
        push    %edx
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     trap_count, %ebx
        cmp     $MAX_TRAPS, %ebx
        jae     3f
        incl    trap_count
        imul    $TRAP_RECORD, %ebx
        add     $trap_log, %ebx
        xor     %edx, %edx
1:      mov     20(%esp, %edx, 4), %eax
        mov     %eax, (%ebx, %edx, 4)
        inc     %edx
        cmp     $7, %edx
        jb      1b
        mov     trap_entry_esp, %eax
        mov     %eax, 28(%ebx)
        pushf
        popl    32(%ebx)
        mov     shared_info, %edx
        test    %edx, %edx
        jz      2f
        movzbl  1(%edx), %eax                   # evtchn_upcall_mask
        mov     %eax, 36(%ebx)
        mov     8(%edx), %eax                   # arch.cr2
        mov     %eax, 40(%ebx)
2:      mov     %cs, 44(%ebx)
        mov     %ss, 48(%ebx)
        mov     trap_hook, %eax
        test    %eax, %eax
        jz      4f
        call    *%eax
4:      mov     trap_resume, %eax
        test    %eax, %eax
        jnz     5f
3:      shutdown 3
5:      mov     %eax, 20 + 2*4(%esp)            # eip
        pop     %edx
        pop     %ebx
        pop     %eax
        pop     %es
        pop     %ds
        add     $4, %esp
        mov     %eax, (%esp)                    # the error code's place is eax's of HYPERVISOR_iret
        mov     $__HYPERVISOR_iret, %eax
        int     $0x82

install_traps:                                  # clobbers what hypercalls do
        hypercall __HYPERVISOR_set_trap_table, $trap_table
        ret

map_shared_info:                                # at shared_page; clobbers what hypercalls do
        mov     start_info, %eax
        mov     SI_shared_info(%eax), %ecx
        or      $PTE_P | PTE_RW, %ecx
        hypercall __HYPERVISOR_update_va_mapping, $shared_page, , $0, $2
        movl    $shared_page, shared_info
        ret

        .macro  gate vector:req, flags:req
        .byte   \vector, \flags
        .word   KERNEL_CS & ~1                  # Xen puts the ring in
        .long   trap_\vector
        .endm

        .data
        .balign 8
trap_table:
        .irp    v, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20
        gate    \v, 0
        .endr
        .irp    v, 3, 4, 0x21
        gate    \v, 3
        .endr
        gate    0x22, 1
gate_80: gate   0x80, 7                         # DPL 3, masks events
        .long   0, 0

shutdown_reason: .long 0
console_port:   .long 0
start_info:     .long 0
console_ring:   .long 0
shared_info:    .long 0
trap_resume:    .long 0
trap_hook:      .long 0                         # called by the handler before it returns; may clobber eax
trap_entry_esp: .long 0

        .bss
        .balign 4096
        .globl  hypercall_page
hypercall_page: .skip 4096
shared_page:    .skip 4096
trap_log:       .skip MAX_TRAPS * TRAP_RECORD
trap_count:     .skip 4
boot_registers: .skip 64
        .balign 4096
stack_bottom:   .skip 4 * 4096
stack_top:

        .text
