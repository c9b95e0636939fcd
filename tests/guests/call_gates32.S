# Call gates of a 32-bit guest: from ring 1 and from ring 3, calls and jumps, and what is refused.
        .set    __HYPERVISOR_set_gdt, 2
        .macro  call_gate selector:req, dpl:req, parameters:req, present=0x8000
        # offset of `gate_target` in two halves, which the assembler cannot take apart: `main` fills them in
        .word   0, \selector, \present | 0x0c00 | \dpl << 13 | \parameters, 0
        .endm

main:
        call    install_traps
        mov     $gate_target, %eax
        mov     $gdt + 8, %edi
1:      mov     %ax, (%edi)
        rol     $16, %eax
        mov     %ax, 6(%edi)
        rol     $16, %eax
        add     $8, %edi
        cmp     $gates_end, %edi
        jb      1b
        remap   gdt, PTE_P
        mov     start_info, %ecx
        mov     SI_mfn_list(%ecx), %ecx
        mov     $gdt, %eax
        shr     $12, %eax
        mov     (%ecx, %eax, 4), %eax
        mov     %eax, gdt_frame
        hypercall __HYPERVISOR_set_gdt, $gdt_frame, $512
        show    set_gdt, %eax
        # from ring 1
        mov     %esp, saved_esp
        lcall   $0x09, $0x12345678
back:   mov     %esp, %eax
        sub     saved_esp, %eax
        show    stack_left, %eax
        mov     frame, %eax
        show    ring1_eip, %eax
        mov     frame + 4, %eax
        show    ring1_cs, %eax
        movl    $jumped, gate_goes_to
        ljmp    *far_pointer
jumped: show    jumped, $1
        movl    $0, gate_goes_to
at_absent: try  lcall $0x11, $0                 # 0: #NP
at_null: try    lcall $0x01, $0                 # 1: no gate
at_data: try    lcall $0x21, $0                 # 2: a gate to data
        # from ring 3
        remap   user, PTE_P | PTE_US
        remap   user_stack, PTE_P | PTE_RW | PTE_US
        hypercall __HYPERVISOR_stack_switch, $KERNEL_DS, $stack_bottom + 4096
        movl    $from_user, gate_goes_to
        pushl   $USER_DS
        pushl   $user_stack + 4096
        pushl   $0x202
        pushl   $USER_CS
        pushl   $user
        iret

gate_target:                                    # eip cs, and from ring 3 parameters esp ss
        mov     gate_goes_to, %eax
        test    %eax, %eax
        jz      1f
        jmp     *%eax
1:      mov     (%esp), %eax
        mov     %eax, frame
        mov     4(%esp), %eax
        mov     %eax, frame + 4
        lret

from_user:
        mov     %cs, %eax
        show    user_target_cs, %eax
        mov     %esp, %eax
        sub     $stack_bottom + 4096, %eax
        show    user_room, %eax
        show    user_eip, (%esp)
        show    user_cs, 4(%esp)
        show    parameter0, 8(%esp)
        show    parameter1, 12(%esp)
        show    user_esp, 16(%esp)
        show    user_ss, 20(%esp)
        poweroff

        .data
        .balign 4096
gdt:    .quad   0
        call_gate 0xe019, 3, 0                  # 0x08
        call_gate 0xe019, 3, 0, 0               # 0x10
        call_gate 0xe019, 3, 2                  # 0x18
        call_gate 0x29, 3, 0                    # 0x20
gates_end:
        .quad   0x00cfb3000000ffff              # 0x28: data
        .balign 4096
user:   pushl   $0x2222
        pushl   $0x1111
        lcall   $0x1b, $0
user_after:
        .balign 4096
user_stack: .skip 4096
gdt_frame: .long 0
saved_esp: .long 0
gate_goes_to: .long 0
frame:  .long   0, 0
far_pointer: .long 0
        .word   0x09
        .balign 4096
        .text
