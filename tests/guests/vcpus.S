# Two vcpus: they exchange events, wait for each other's lock, sleep and wake, go down and come up.
# The test puts .set C_*, offsets into vcpu_guest_context, before this.

        .macro  vcpu_op name, number, vcpu, arg=$0
        hypercall __HYPERVISOR_vcpu_op, $\number, $\vcpu, \arg
        show    \name, %rax
        .endm

main:   call    install_upcall
        vcpu_op up_before, 3, 1
        call    make_context
        vcpu_op initialise, 0, 1, $context
        movl    $1, ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi_arg           # EVTCHNOP_bind_ipi
        mov     ipi_arg + 4, %eax
        mov     %eax, to_second
        movq    $1, lock
        vcpu_op up, 1, 1
        vcpu_op up_after, 3, 1
        mov     $10, %r15d
1:      pause                                   # until the other is there
        cmpl    $0, to_first
        je      1b
2:      hypercall __HYPERVISOR_event_channel_op, $4, $to_second
        mov     to_first, %ebx
        call    poll
        dec     %r15d
        jnz     2b
        movq    $42, guarded                    # the other waits for the lock meanwhile
        hypercall __HYPERVISOR_sched_op, $0     # SCHEDOP_yield
        movq    $43, guarded
        movq    $0, lock
3:      pause
        cmpq    $0, lock_seen
        je      3b
        show    lock_seen, lock_seen
        show    pongs, pongs
4:      hypercall __HYPERVISOR_vcpu_op, $3, $1  # until it is down
        test    %eax, %eax
        jnz     4b
        vcpu_op runstate, 4, 1, $area
        mov     area, %eax
        show    state, %rax
        show    ticks, ticks
        vcpu_op up_again, 1, 1
5:      pause
        cmpq    $0, returned
        je      5b
        show    returned, returned
        vcpu_op down, 2, 1
        mov     spins, %rbx
        hypercall __HYPERVISOR_sched_op, $0
        sub     spins, %rbx
        show    still, %rbx
        ret

poll:                                           # ebx: a port; until it is pending, which ends
        mov     %ebx, poll_port
        movq    $poll_port, poll_arg
        movl    $1, poll_arg + 8
        movq    $0, poll_arg + 16
        hypercall __HYPERVISOR_sched_op, $3, $poll_arg
        lock btr %rbx, shared_page + 0x800
        jnc     poll
        ret

second: mov     %rdi, second_argument
        mov     %cs, second_cs
        movl    $0, second_ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $second_ipi_arg
        mov     second_ipi_arg + 4, %eax
        mov     %eax, to_first
        mov     $10, %r15d
1:      mov     to_second, %ebx
        mov     %ebx, second_port
        movq    $second_port, second_poll_arg
        movl    $1, second_poll_arg + 8
2:      hypercall __HYPERVISOR_sched_op, $3, $second_poll_arg
        lock btr %rbx, shared_page + 0x800
        jnc     2b
        incq    pongs
        hypercall __HYPERVISOR_event_channel_op, $4, $to_first
        dec     %r15d
        jnz     1b
        mov     $1, %ecx
3:      pause
        xor     %eax, %eax
        lock cmpxchg %rcx, lock
        jnz     3b
        mov     guarded, %rax
        mov     %rax, lock_seen
        hypercall __HYPERVISOR_event_channel_op, $1, $second_virq_arg   # VIRQ_TIMER
        mov     $shared_page + 64, %rax
        movb    $0, (%rax)
        movq    $0, 8(%rax)
        movq    $0, shared_page + 0x800
        rdtsc64
        add     $2000000, %rax
        mov     %rax, second_timer_arg
        hypercall __HYPERVISOR_vcpu_op, $8, $1, $second_timer_arg
        hypercall __HYPERVISOR_sched_op, $1     # SCHEDOP_block
        mov     second_ticks, %rax
        mov     %rax, ticks
        hypercall __HYPERVISOR_vcpu_op, $2, $1  # down
        inc     %rax
        mov     %rax, returned
4:      incq    spins
        pause
        jmp     4b

second_upcall:
        incq    second_ticks
        movb    $0, shared_page + 64
        movq    $0, shared_page + 64 + 8
        movq    $0, shared_page + 0x800
        sub     $16, %rsp
        mov     %rax, (%rsp)
        mov     24(%rsp), %rax
        mov     %rax, 8(%rsp)
        movq    $0, 24(%rsp)
        mov     $__HYPERVISOR_iret, %eax
        syscall

make_context:
        mov     start_info, %rax
        mov     SI_pt_base(%rax), %rbx
        shr     $12, %rbx
        mov     SI_mfn_list(%rax), %rcx
        mov     (%rcx, %rbx, 8), %rbx
        shl     $12, %rbx
        mov     %rbx, context + C_cr3
        movq    $4, context + C_flags           # VGCF_in_kernel
        movq    $second, context + C_ip
        movq    $second_stack_top, context + C_sp
        movq    $second_stack_top, context + C_kernel_sp
        movw    $0xe033, context + C_cs
        movw    $0xe02b, context + C_ss
        movq    $0xe02b, context + C_kernel_ss
        movq    $0x77, context + C_di
        movq    $second_upcall, context + C_event
        ret

        .data
        .balign 8
ipi_arg:        .long 0, 0
second_ipi_arg: .long 0, 0
second_virq_arg: .long 0, 1, 0
to_first:       .long 0
to_second:      .long 0
poll_port:      .long 0
second_port:    .long 0
        .balign 8
poll_arg:       .quad 0, 0, 0
second_poll_arg: .quad 0, 0, 0
second_timer_arg: .quad 0, 0
lock:           .quad 0
guarded:        .quad 0
lock_seen:      .quad 0
pongs:          .quad 0
ticks:          .quad 0
second_ticks:   .quad 0
returned:       .quad 0
spins:          .quad 0
second_argument: .quad 0
second_cs:      .quad 0
        .bss
        .balign 4096
context:        .skip 8192
area:           .skip 64
        .skip   4096
second_stack_top:
        .text
