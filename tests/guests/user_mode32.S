# User mode in ring 3 on the kernel's own tables: what it may touch hangs on the USER bit of each page.
main:
        call    map_shared_info
        call    install_traps
        remap   user_page, PTE_P | PTE_RW | PTE_US
        show    remapped, %eax
        remap   user_data, PTE_P | PTE_RW | PTE_US
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $kernel_stack_top
        movl    $advance, trap_hook
        pushl   $USER_DS
        pushl   $user_stack_top
        pushl   $0x2                            # IF 0: upcalls stay masked
        pushl   $USER_CS
        pushl   $user
        pushl   $0x7777                         # eax
        mov     $__HYPERVISOR_iret, %eax
        int     $0x82

        .pushsection .data
        .balign 4096
user_page:
user:   mov     $USER_DS, %ebx
        mov     %ebx, %ds
        mov     %eax, user_saw
        mov     %cs, user_saw + 4
        mov     %ss, user_saw + 8
        int     $0x80                           # to the kernel; it sets trap_resume for us
after_80:
at_user_gp: hlt
u1:     movb    console_port, %al               # a kernel page
u2:     movb    %al, console_port
u3:     mov     M2P + 0x100000, %eax            # Xen's page for kernels
u4:     int     $0x22                           # DPL 1
u5:     mov     $__HYPERVISOR_xen_version, %eax
at_user_int82: int $0x82
u6:     cli
u7:     mov     $43, %eax
        int     $0x21                           # end
        .balign 4096
user_data:
user_saw: .long 0, 0, 0
        .balign 2048
user_stack_top:
        .balign 4096
        .popsection

advance:                                        # after each trap user mode goes on at the next label
        mov     trap_count, %eax
        mov     next - 4(, %eax, 4), %eax
        mov     %eax, trap_resume
        test    %eax, %eax
        jz      1f
        ret
1:      poweroff

        .pushsection .data
        .balign 4
next:   .long   after_80, u1, u2, u3, u4, u5, u6, u7, 0
        .popsection
        .bss
        .balign 4096
        .skip   4096
kernel_stack_top:
        .text
