"""A program that runs a compiled network on samples: on a computer, or on an emulated Cortex-M."""

from importlib import resources

from jaxsnn.compile.plan import Plan
from jaxsnn.compile.source import sample_type

__all__ = ["FLASH", "RAM", "linker_script", "program"]

FLASH, RAM = 1024 * 1024, 256 * 1024  # bytes, where a user states none


def program(plan: Plan, name: str, header: str) -> str:
    """Return the C of a program that reads samples and prints scores.

    Args:
      plan: of the network.
      name: prefix of its functions.
      header: the file that declares them.
    """
    upper = name.upper()
    text = (resources.files("jaxsnn.compile") / "trial.c").read_text(encoding="utf-8")
    return f"""\
#include "{header}"

typedef {sample_type(plan)} SAMPLE;
#define SAMPLE_SIZE {upper}_SAMPLE
#define CLASSES {upper}_CLASSES
#ifdef {upper}_TRACE
#define NEURONS {upper}_NEURONS
#define RUN {name}_trace(sample, scores, counts)
#else
#define RUN {name}_predict(sample, scores)
#endif

{text}"""


def linker_script(flash: int, ram: int) -> str:
    """Return where the program's parts go in a Cortex-M of so many bytes."""
    return f"""\
MEMORY
{{
  flash (rx) : ORIGIN = 0x00000000, LENGTH = {flash}
  ram (rw) : ORIGIN = 0x20000000, LENGTH = {ram}
}}
SECTIONS
{{
  .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > flash
  .data : {{ *(.data*) }} > ram
  .bss (NOLOAD) : ALIGN(4)
  {{
    ram_begin = .;
    *(.bss*) *(COMMON)
    . = ALIGN(4);
    ram_end = .;
  }} > ram
  /DISCARD/ : {{ *(.ARM.exidx*) *(.comment) *(.note*) }}
}}
ASSERT(SIZEOF(.data) == 0, "nothing copies variables with a start value from flash")
stack_top = ORIGIN(ram) + LENGTH(ram);
"""
