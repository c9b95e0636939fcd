# Event channels and timers: when an upcall comes, and when it does not.
        .macro  send port
        mov     \port, %eax
        mov     %eax, port_arg
        hypercall __HYPERVISOR_event_channel_op, $4, $port_arg
        .endm
        .macro  unmask_upcalls                  # as Linux: clear the mask, then look
        movb    $0, shared_page + 1
        hypercall __HYPERVISOR_xen_version, $0
        .endm
        .macro  mask_upcalls
        movb    $1, shared_page + 1
        .endm
        .macro  timer_in ns:req
        rdtsc64
        add     $\ns, %rax
        mov     %rax, due
        hypercall __HYPERVISOR_set_timer_op, %rax
        .endm
main:
        call    install_upcall
        call    install_traps
        hypercall __HYPERVISOR_vcpu_op, $7, $0  # a vcpu starts with a periodic timer of 10 ms: stop it
        mov     console_port, %eax              # what is shown here raises its channel
        lock btsl %eax, shared_page + 0xa00
        xor     %eax, %eax                      # forget what the toolstack raised
        xchg    %rax, shared_page + 0x800
        movq    $0, shared_page + 8
        movb    $0, shared_page
        bind_timer
        show    timer_port, %rax
        # a timer while masked is pending only
        timer_in 1000000
1:      rdtsc64
        cmp     due, %rax
        jb      1b
        rdtsc64
        movzbl  shared_page, %eax
        show    pending_masked, %rax
        show    upcalls_masked, upcall_count
        unmask_upcalls                          # upcall 0
        show    upcalls_unmasked, upcall_count
        # block wakes up on the timer
        timer_in 50000000
        movq    $0, upcall_count + 0            # count again, log again from 0
        movq    $1, upcall_count
        hypercall __HYPERVISOR_sched_op, $1     # block: upcall 1
        rdtsc64
        sub     due, %rax
        show    late, %rax
        show    upcalls_block, upcall_count
        # masked channel: nothing until EVTCHNOP_unmask
        movl    $0, ipi_arg
        hypercall __HYPERVISOR_event_channel_op, $7, $ipi_arg
        mov     ipi_arg + 4, %ecx
        show    ipi_port, %rcx
        lock btsl %ecx, shared_page + 0xa00
        send    ipi_arg+4
        show    upcalls_channel_masked, upcall_count
        mov     ipi_arg + 4, %eax
        mov     %eax, port_arg
        hypercall __HYPERVISOR_event_channel_op, $9, $port_arg      # unmask: upcall 2
        show    upcalls_channel_unmasked, upcall_count
        send    ipi_arg+4                       # upcall 3
        show    upcalls_ipi, upcall_count
        # loopback
        hypercall __HYPERVISOR_event_channel_op, $6, $unbound_arg
        mov     unbound_arg + 4, %eax
        mov     %eax, interdomain_arg + 4
        hypercall __HYPERVISOR_event_channel_op, $0, $interdomain_arg
        show    interdomain, %rax
        send    interdomain_arg+8               # upcall 4 came with the binding; 5 is at the other end
        show    upcalls_loopback, upcall_count
        # iret with IF set unmasks
        mask_upcalls
        send    ipi_arg+4
        pushq   $0xe02b
        pushq   $stack_top - 64
        pushq   $0x202
        pushq   $0xe030
        pushq   $after_iret
        pushq   $0
        pushq   $0
        pushq   $0
        pushq   $0
        mov     $__HYPERVISOR_iret, %eax
        syscall
after_iret:                                     # upcall 6
        show    upcalls_iret, upcall_count
        # poll: a time-out, then a pending port; no upcall while masked
        mask_upcalls
        mov     ipi_arg + 4, %eax
        mov     %eax, poll_ports
        rdtsc64
        add     $3000000, %rax
        mov     %rax, poll_arg + 16
        hypercall __HYPERVISOR_sched_op, $3, $poll_arg
        rdtsc64
        sub     poll_arg + 16, %rax
        show    poll_late, %rax
        send    ipi_arg+4
        rdtsc64
        mov     $3000000000, %r12
        add     %rax, %r12
        mov     %r12, poll_arg + 16
        hypercall __HYPERVISOR_sched_op, $3, $poll_arg
        rdtsc64
        sub     %rax, %r12
        show    poll_left, %r12
        unmask_upcalls                          # upcall 7
        # periodic timer
        movq    $2000000, period
        hypercall __HYPERVISOR_vcpu_op, $6, $0, $period
        show    periodic, %rax
        mov     $5, %ebx
        mov     upcall_count, %r12
1:      rdtsc64                                 # upcalls 8 to 13, one at once
        cmp     upcall_count, %r12
        je      1b
        inc     %r12
        dec     %ebx
        jnz     1b
        show    upcalls_periodic, upcall_count
        timer_in 20000000
        hypercall __HYPERVISOR_sched_op, $1     # upcall 14: the periodic timer does not end it
        rdtsc64
        sub     due, %rax
        show    block_late, %rax
        hypercall __HYPERVISOR_vcpu_op, $7, $0
        # vcpu_info elsewhere
        mask_upcalls
        mfn_of  info_page
        mov     %rax, info_arg
        movl    $64, info_arg + 8
        hypercall __HYPERVISOR_vcpu_op, $10, $0, $info_arg
        show    register_info, %rax
        movq    $info_page + 64, vcpu_info
        movb    $0, info_page + 64 + 1
        hypercall __HYPERVISOR_xen_version, $0  # upcall 15: all is marked pending
        send    ipi_arg+4                       # upcall 16
        show    upcalls_moved, upcall_count
        # vcpu_time_info agrees with the TSC
        mov     info_page + 64 + 32 + 8, %rax   # tsc_timestamp
        show    tsc_timestamp, %rax
        mov     info_page + 64 + 32 + 16, %rax
        show    system_time, %rax
        # nothing to wait for: a periodic timer ticks for one who runs only
        movq    $0, due
        hypercall __HYPERVISOR_set_timer_op, $0
        mov     upcall_count, %r12
        hypercall __HYPERVISOR_vcpu_op, $6, $0, $period
1:      rdtsc64
        cmp     upcall_count, %r12
        je      1b
        hypercall __HYPERVISOR_sched_op, $1
        show    not_reached, $1
        ret
        .data
        .balign 8
due:    .quad   0
port_arg: .long 0
ipi_arg: .long  0, 0
unbound_arg: .word 0x7ff0, 0x7ff0
        .long   0
interdomain_arg: .word 0x7ff0, 0
        .long   0, 0
        .balign 8
poll_arg: .quad poll_ports, 1, 0
poll_ports: .long 0
        .balign 8
period: .quad   0
info_arg: .quad 0, 0
        .bss
        .balign 4096
info_page: .skip 4096
        .text
