# A user mode: its own root table that shares one L3 for code and lacks the kernel's page tables elsewhere.
# The user root has slot 0 of the kernel's root, so all of low memory is there; `kernel_only` (slot 300) is not.
main:
        call    install_upcall
        call    install_traps
        movl    $2, callback                    # CALLBACKTYPE_syscall
        movq    $syscall_entry, callback + 8
        hypercall __HYPERVISOR_callback_op, $0, $callback
        show    callback, %rax
        hypercall __HYPERVISOR_stack_switch, $0xe02b, $kernel_stack_top
        # the user root: slot 0 as in the kernel's
        mov     start_info, %rdx
        mov     SI_pt_base(%rdx), %rsi
        mov     (%rsi), %rax
        mov     %rax, user_root
        mfn_of  user_root
        mov     %rax, ext_op + 8
        map_page user_root, ext_op+8, 5
        movl    $3, ext_op                      # PIN_L4_TABLE
        hypercall __HYPERVISOR_mmuext_op, $ext_op, $1, $0, $DOMID_SELF
        show    pin, %rax
        movl    $15, ext_op                     # NEW_USER_BASEPTR
        hypercall __HYPERVISOR_mmuext_op, $ext_op, $1, $0, $DOMID_SELF
        show    baseptr, %rax
        hypercall __HYPERVISOR_set_segment_base, $1, $user_gs
        hypercall __HYPERVISOR_set_segment_base, $2, $kernel_gs
        mov     %gs:0, %rax
        show    gs_kernel, %rax
        # go
        pushq   $0xe02b
        pushq   $user_stack_top
        pushq   $0x202
        pushq   $0xe033
        pushq   $user
        pushq   $0                              # flags
        pushq   $0x3333                         # rcx
        pushq   $0x1111                         # r11
        pushq   $0x7777                         # rax
        mov     $__HYPERVISOR_iret, %eax
        syscall

user:
        mov     %rax, user_saw
        mov     %rcx, user_saw + 8
        mov     %r11, user_saw + 16
        mov     %gs:0, %rbx
        mov     %rbx, user_saw + 24
        mov     $42, %eax
        stc
        syscall                                 # to syscall_entry, and back
after_syscall:
        movq    $8f, trap_resume                # privileged: a #GP for the user
        hlt
8:      movq    $8f, trap_resume
        mov     0x7fffff8, %rax
8:      movq    $8f, trap_resume
        int3
8:      movq    $8f, trap_resume
        int     $0x22
8:      movq    $8f, trap_resume
        int     $0x21
8:      movq    $8f, trap_resume
        cli
8:      movq    $8f, trap_resume
        mov     $3, %ecx
        rdmsr
8:      mov     $43, %eax                       # end
        syscall
        ud2

syscall_entry:                                  # rcx r11 rip cs rflags rsp ss
        cmp     $43, %eax
        je      done
        mov     %rsp, frame_at
        mov     (%rsp), %rax
        mov     %rax, frame
        mov     8(%rsp), %rax
        mov     %rax, frame + 8
        mov     16(%rsp), %rax
        mov     %rax, frame + 16
        mov     24(%rsp), %rax
        mov     %rax, frame + 24
        mov     32(%rsp), %rax
        mov     %rax, frame + 32
        mov     40(%rsp), %rax
        mov     %rax, frame + 40
        mov     48(%rsp), %rax
        mov     %rax, frame + 48
        mov     %gs:0, %rax
        mov     %rax, frame + 56
        add     $16, %rsp
        pushq   $0x100                          # VGCF_in_syscall: rcx and r11 stay
        pushq   $0
        pushq   $0
        pushq   $99
        mov     $__HYPERVISOR_iret, %eax
        syscall

done:
        mov     %gs:0, %rax
        show    gs_kernel_again, %rax
        poweroff

        .data
        .balign 8
callback: .long 0, 0
        .quad   0
ext_op: .long   0, 0
        .quad   0, 0
user_gs: .quad  0x5e5e
kernel_gs: .quad 0x1c1c
        .bss
        .balign 4096
user_root: .skip 4096
        .skip   4096
kernel_stack_top:
        .skip   4096
user_stack_top:
user_saw: .skip 64
frame:  .skip   64
frame_at: .skip 8
        .text
