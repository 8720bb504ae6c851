"""Run a program for a Cortex-M4 in an emulator: python cortex_m4.py PROGRAM.elf < SAMPLES

The program asks for its input and prints by semihosting, as `jaxsnn compile --target mcu --test`
writes it. What it prints goes to the standard output; the bytes of flash, memory and stack that it
took and the instructions between the end of a sample's input and its first output go to the
standard error. Instructions are not cycles: a Cortex-M4 takes one or more for each.

Needs `pip install unicorn`.
"""

import statistics
import struct
import sys
from pathlib import Path

from unicorn import (
    UC_ARCH_ARM,
    UC_HOOK_BLOCK,
    UC_HOOK_INTR,
    UC_MODE_MCLASS,
    UC_MODE_THUMB,
    Uc,
    UcError,
)
from unicorn.arm_const import (
    UC_ARM_REG_PC,
    UC_ARM_REG_R0,
    UC_ARM_REG_R1,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M4,
)

RAM, PAGE = 0x20000000, 4096
OPEN, WRITE0, READ, EXIT, DONE = 1, 4, 6, 0x18, 0x20026
BREAKPOINT = 7  # the exception of `bkpt`
UNTOUCHED = 0xA5  # what memory holds before anything is written


def segments(elf):
    """Return (address, bytes of the file, size in memory) of what a program loads."""
    if elf[:5] != b"\x7fELF\x01":
        raise SystemExit("no ELF file of 32 bits")
    start, size, count = *struct.unpack_from("<I", elf, 28), *struct.unpack_from("<HH", elf, 42)
    found = []
    for i in range(count):
        kind, offset, address, _, length, memory, _, _ = struct.unpack_from(
            "<8I", elf, start + i * size
        )
        if kind == 1 and memory:
            found.append((address, elf[offset : offset + length], memory))
    return found


class Machine:
    """A Cortex-M4 with a program in its memory, and the semihosting calls that it makes."""

    def __init__(self, elf):
        """Load a program; its vector table is at address 0."""
        parts = segments(elf)
        self.flash = sum(len(data) for _, data, _ in parts)
        self.used = max((a + size for a, _, size in parts if a >= RAM), default=RAM) - RAM
        self.code = bytearray(-(-max(a + len(d) for a, d, _ in parts if a < RAM) // PAGE) * PAGE)
        for address, data, _ in parts:
            if address < RAM:
                self.code[address : address + len(data)] = data
        self.stack, self.entry = struct.unpack_from("<II", self.code)
        self.core = core = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        core.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M4)
        core.mem_map(0, len(self.code))
        core.mem_write(0, bytes(self.code))
        self.ram = -(-(self.stack - RAM) // PAGE) * PAGE
        core.mem_map(RAM, self.ram)
        core.mem_write(RAM, bytes([UNTOUCHED]) * self.ram)
        core.hook_add(UC_HOOK_BLOCK, self._count)
        core.hook_add(UC_HOOK_INTR, self._interrupt)
        self.lengths, self.instructions, self.since, self.samples = {}, 0, None, []
        self.result = None

    def run(self):
        """Run the program to its end; return what it gave back, None if it never did."""
        self.core.reg_write(UC_ARM_REG_SP, self.stack)
        try:
            self.core.emu_start(self.entry | 1, 0xFFFFFFFE)
        except UcError as error:
            place = self.core.reg_read(UC_ARM_REG_PC)
            raise SystemExit(f"the program stopped at {place:#x}: {error}") from None
        return self.result

    @property
    def stack_used(self):
        """The bytes of the stack that were written."""
        rest = bytes(self.core.mem_read(RAM + self.used, self.stack - RAM - self.used))
        return len(rest.lstrip(bytes([UNTOUCHED])))

    def _count(self, core, address, size, _):
        del core
        if address not in self.lengths:
            end, place, count = address + size, address, 0
            while place < end:  # 11101, 11110 and 11111 begin an instruction of four bytes
                place += 4 if self.code[place + 1] >> 3 >= 0b11101 else 2
                count += 1
            self.lengths[address] = count
        self.instructions += self.lengths[address]

    def _interrupt(self, core, number, _):
        place = core.reg_read(UC_ARM_REG_PC)
        if number != BREAKPOINT:
            raise SystemExit(f"the program stopped at {place:#x}: exception {number}")
        operation, argument = core.reg_read(UC_ARM_REG_R0), core.reg_read(UC_ARM_REG_R1)
        if operation == EXIT:
            self.result = argument
            core.emu_stop()
            return
        core.reg_write(UC_ARM_REG_R0, self._answer(operation, argument))
        core.reg_write(UC_ARM_REG_PC, (place + 2) | 1)

    def _answer(self, operation, argument):
        if operation == OPEN:  # the console, whatever the name
            return 1
        if operation == READ:
            _, to, size = struct.unpack("<3I", self.core.mem_read(argument, 12))
            data = sys.stdin.buffer.read(size)
            self.core.mem_write(to, data)
            self.since = self.instructions
            return size - len(data)
        if operation == WRITE0:
            if self.since is not None:
                self.samples.append(self.instructions - self.since)
                self.since = None
            sys.stdout.write(self._text(argument))
            return 0
        raise SystemExit(f"semihosting call {operation:#x} is not known here")

    def _text(self, place):
        found = bytearray()
        while (byte := self.core.mem_read(place, 1)) != b"\0":
            found += byte
            place += 1
        return found.decode()


def main():
    """Run the program that the command line names."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__.partition("\n")[0])
    try:
        program = Path(sys.argv[1]).read_bytes()
    except OSError as error:
        raise SystemExit(f"{sys.argv[1]}: {error.strerror}") from None
    machine = Machine(program)
    if machine.run() != DONE:
        raise SystemExit(f"the program failed: {machine.result}")
    typical = f"{statistics.median(machine.samples):,.0f}" if machine.samples else "no"
    print(
        f"{machine.flash:,} bytes of flash, {machine.used:,} of memory, {machine.stack_used:,} of "
        f"stack; {len(machine.samples)} samples, {typical} instructions each",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
