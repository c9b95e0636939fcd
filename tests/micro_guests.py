"""What micro-guests have in common that a test writes down in a few lines: notes, a linker script, and two whole ones.

The guests of tests/guests have a prelude of their own (`pv64.S`, `pv32.S`), those of tests/cli a console.
"""

from __future__ import annotations

__all__ = ["COUNTING", "NOTES", "NOTES32", "SCRIPT", "SPINNING"]

_NOTE = """
    .macro note type:req, directive:req, value:vararg
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 2f - 1f, \\type
    .asciz "Xen"
1:  \\directive \\value
2:  .balign 4
    .popsection
    .endm
    note 5, .asciz, "xen-3.0"
    note 8, .asciz, "generic"
"""
#: Entry, VIRT_BASE, version and loader: what a PV kernel has to say.
NOTES = (
    _NOTE
    + """
    note 1, .quad, _start
    note 3, .quad, 0
"""
)
NOTES32 = (
    _NOTE
    + """
    note 1, .long, _start
    note 3, .long, 0
    note 9, .asciz, "yes"                   # PAE
"""
)
SCRIPT = """
ENTRY(_start)
PHDRS { all PT_LOAD FLAGS(7); note PT_NOTE; }
SECTIONS {
  . = 0x100000;
  .text : { *(.text) } :all
  .note.Xen : { *(.note.Xen) } :all :note
  .data : { *(.rodata) *(.data) } :all
  .bss : { *(.bss) } :all
}
"""
#: Stores 1..20 one after the other, makes a hypercall (sched_op yield) after each, then faults.
COUNTING = (
    NOTES
    + """
    .text
    .globl _start
_start:
    mov $0, %rbx
loop:
    inc %rbx
store:
    mov %rbx, value(%rip)
    mov $29, %eax
    xor %edi, %edi
    xor %esi, %esi
    syscall
    cmp $20, %rbx
    jne loop
    mov $0x7000001234, %rcx
crash:
    movq $1, (%rcx)
    .data
value: .quad 0
"""
)
SPINNING = (
    NOTES
    + """
    .text
    .globl _start
_start:
    inc %rax
    incq value(%rip)
    jmp _start
    .data
value: .quad 0
"""
)
