# Stores of the kernel to its own page tables (writable page tables), and refusals of page-table updates.
main:
        call    install_traps
        # rbx = virtual address of the L1 entry that maps `target` (tables are mapped at pt_base, the L1s last)
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rbx
        mov     SI_nr_pt_frames(%rdx), %rax
        shl     $12, %rax
        add     %rax, %rbx
        mov     $2, %eax                        # two L1 tables map 4 MiB
        shl     $12, %rax
        sub     %rax, %rbx
        mov     $target, %eax
        shr     $9, %eax
        add     %rax, %rbx
        show    entry, (%rbx)
        mov     (%rbx), %r12
        try     mov %r12, (%rbx)                # trap 0: Xen emulates stores only when asked to
        hypercall __HYPERVISOR_vm_assist, $0, $2           # enable writable_pagetables
        xor     %eax, %eax
        try     xchg %rax, (%rbx)
        show    xchg_old, %rax
        show    xchg_new, (%rbx)
        try     mov target, %al                 # trap 1: gone
        mov     %r12, %rax
        try     mov %rax, (%rbx)
        movq    $0x55, target
        show    back, target
        stc
        try     lock btrq $1, (%rbx)            # read-only
        setc    %al
        movzbl  %al, %eax
        show    btr_carry, %rax
        hypercall __HYPERVISOR_mmuext_op, $flush_op, $1, $0, $DOMID_SELF
        try     movq $1, target                 # trap 2
        try     orb $2, (%rbx)
        try     movq $1, target
        mov     (%rbx), %rax
        mov     %rax, %rcx
        btr     $1, %rcx
        try     lock cmpxchg %rcx, (%rbx)
        setz    %al
        movzbl  %al, %eax
        show    cmpxchg_zf, %rax
        # an entry that would make a page table writable
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rdi
        shr     $12, %rdi
        mov     SI_mfn_list(%rdx), %rcx
        mov     (%rcx, %rdi, 8), %rdi           # mfn of the L4
        shl     $12, %rdi
        or      $7, %rdi
        mov     $0x77, %eax
at_bad: try     mov %rdi, (%rbx)                # trap 3: refused
        mov     %rdi, %rsi
        hypercall __HYPERVISOR_update_va_mapping, $target, , $2
        show    writable_table, %rax
        mov     SI_pt_base(%rdx), %rcx
        # a foreign frame
        mov     $0x1000007, %rsi
        hypercall __HYPERVISOR_update_va_mapping, $target, , $2
        show    foreign, %rax
        # L4 slots of Xen
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rdi
        shr     $12, %rdi
        mov     SI_mfn_list(%rdx), %rcx
        mov     (%rcx, %rdi, 8), %rdi
        mov     %rdi, pin_arg + 8
        shl     $12, %rdi
        add     $256*8, %rdi
        mov     %rdi, request
        movq    $0, request + 8
        hypercall __HYPERVISOR_mmu_update, $request, $1, $0, $DOMID_SELF
        show    xen_slot, %rax
        # an L4 store is not emulated
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rdi
        try     movq $0, 8*300(%rdi)            # trap 4
        # pinning: a frame with a writable mapping, then without
        mfn_of  new_l1
        mov     %rax, %r13
        mov     %rax, pin_arg + 8
        movl    $0, pin_arg                     # PIN_L1_TABLE
        hypercall __HYPERVISOR_mmuext_op, $pin_arg, $1, $0, $DOMID_SELF
        show    pin_writable, %rax
        mov     start_info, %rdx                # entry 0 good, entry 1 foreign
        mov     SI_mfn_list(%rdx), %rcx
        mov     (%rcx), %rcx
        shl     $12, %rcx
        or      $5, %rcx
        mov     %rcx, new_l1
        movq    $0x1000007, new_l1 + 8
        map_page new_l1, %r13, 5
        show    make_readonly, %rax
        hypercall __HYPERVISOR_mmuext_op, $pin_arg, $1, $0, $DOMID_SELF
        show    pin_bad, %rax
        map_page new_l1, %r13, 7
        show    make_writable, %rax
        movq    $0, new_l1 + 8
        map_page new_l1, %r13, 5
        hypercall __HYPERVISOR_mmuext_op, $pin_arg, $1, $0, $DOMID_SELF
        show    pin_good, %rax
        map_page new_l1, %r13, 7
        show    map_pinned, %rax
        movl    $4, pin_arg                     # UNPIN_TABLE
        hypercall __HYPERVISOR_mmuext_op, $pin_arg, $1, $0, $DOMID_SELF
        show    unpin, %rax
        hypercall __HYPERVISOR_mmuext_op, $pin_arg, $1, $0, $DOMID_SELF
        show    unpin_twice, %rax
        map_page new_l1, %r13, 7
        show    writable_again, %rax
        ret
        .data
        .balign 8
request: .quad  0, 0
pin_arg: .long  0, 0
        .quad   0, 0
flush_op: .long 6, 0                            # TLB_FLUSH_LOCAL
        .quad   0, 0
        .bss
        .balign 4096
target: .skip   4096
new_l1: .skip   4096
        .text
