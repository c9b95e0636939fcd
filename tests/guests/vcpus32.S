# As vcpus.S, of 32 bits: two vcpus exchange events, one waits for the other's lock, goes down and comes up.

        .set    __HYPERVISOR_vcpu_op, 24
        .macro  vcpu_op name, number, vcpu, arg=$0
        hypercall __HYPERVISOR_vcpu_op, $\number, $\vcpu, \arg
        show    \name, %eax
        .endm

main:   call    map_shared_info
        vcpu_op up_before, 3, 1
        mov     start_info, %eax
        mov     SI_pt_base(%eax), %ebx
        shr     $12, %ebx
        mov     SI_mfn_list(%eax), %ecx
        mov     (%ecx, %ebx, 4), %ebx
        shl     $12, %ebx
        mov     %ebx, context + C_cr3
        movl    $4, context + C_flags           # VGCF_in_kernel
        movl    $second, context + C_ip
        movl    $second_stack_top, context + C_sp
        movl    $second_stack_top, context + C_kernel_sp
        movw    $KERNEL_CS, context + C_cs
        movw    $KERNEL_DS, context + C_ss
        movw    $KERNEL_DS, context + C_ds
        movw    $KERNEL_DS, context + C_es
        movw    $USER_DS, context + C_fs
        movl    $KERNEL_DS, context + C_kernel_ss
        movl    $0x77, context + C_di
        vcpu_op initialise, 0, 1, $context
        movl    $1, ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi_arg           # EVTCHNOP_bind_ipi
        mov     ipi_arg + 4, %eax
        mov     %eax, to_second
        movl    $1, lock
        vcpu_op up, 1, 1
        vcpu_op up_after, 3, 1
1:      pause
        cmpl    $0, to_first
        je      1b
        mov     $10, %ebp
2:      hypercall __HYPERVISOR_event_channel_op, $4, $to_second
        mov     to_first, %eax
        mov     %eax, poll_port
3:      hypercall __HYPERVISOR_sched_op, $3, $poll_arg
        mov     poll_port, %eax
        lock btr %eax, shared_page + 0x800
        jnc     3b
        dec     %ebp
        jnz     2b
        movl    $42, guarded
        hypercall __HYPERVISOR_sched_op, $0     # SCHEDOP_yield
        movl    $43, guarded
        movl    $0, lock
4:      pause
        cmpl    $0, lock_seen
        je      4b
        show    lock_seen, lock_seen
        show    pongs, pongs
5:      hypercall __HYPERVISOR_vcpu_op, $3, $1
        test    %eax, %eax
        jnz     5b
        vcpu_op runstate, 4, 1, $area
        show    state, area
        vcpu_op up_again, 1, 1
6:      pause
        cmpl    $0, returned
        je      6b
        show    returned, returned
        show    argument, second_argument
        show    cs, second_cs
        show    fs, second_fs
        vcpu_op down, 2, 1
        ret

second: mov     %edi, second_argument
        mov     %cs, second_cs
        mov     %fs, second_fs
        movl    $0, second_ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $second_ipi_arg
        mov     second_ipi_arg + 4, %eax
        mov     %eax, to_first
        mov     $10, %ebp
1:      mov     to_second, %eax
        mov     %eax, second_port
2:      hypercall __HYPERVISOR_sched_op, $3, $second_poll_arg
        mov     second_port, %eax
        lock btr %eax, shared_page + 0x800
        jnc     2b
        incl    pongs
        hypercall __HYPERVISOR_event_channel_op, $4, $to_first
        dec     %ebp
        jnz     1b
        mov     $1, %ecx
3:      pause
        xor     %eax, %eax
        lock cmpxchg %ecx, lock
        jnz     3b
        mov     guarded, %eax
        mov     %eax, lock_seen
        hypercall __HYPERVISOR_vcpu_op, $2, $1  # down
        inc     %eax
        mov     %eax, returned
4:      pause
        jmp     4b

        .data
        .balign 8
ipi_arg:        .long 0, 0
second_ipi_arg: .long 0, 0
to_first:       .long 0
to_second:      .long 0
poll_port:      .long 0
second_port:    .long 0
poll_arg:       .long poll_port, 1, 0, 0
second_poll_arg: .long second_port, 1, 0, 0
lock:           .long 0
guarded:        .long 0
lock_seen:      .long 0
pongs:          .long 0
returned:       .long 0
second_argument: .long 0
second_cs:      .long 0
second_fs:      .long 0
        .bss
        .balign 4096
context:        .skip 4096
area:           .skip 64
        .skip   4096
second_stack_top:
        .text
