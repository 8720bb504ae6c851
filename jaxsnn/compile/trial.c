/* Reads samples as they lie in memory, one after another, and prints the scores of each in a line.
   On a computer they come from the standard input; on a Cortex-M from that of its debugger or
   emulator, by semihosting: https://github.com/ARM-software/abi-aa, semihosting. */

static SAMPLE sample[SAMPLE_SIZE];
static int32_t scores[CLASSES];
#ifdef NEURONS
static int32_t counts[NEURONS + 1];
#endif

#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
static int32_t ask(int32_t operation, const void *argument) {
  register int32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

enum { OPEN = 1, WRITE0 = 4, READ = 6, EXIT = 0x18, DONE = 0x20026, FAULT = 0x20023 };

static void print(const char *text) { ask(WRITE0, text); }

static int read_all(void *to, uint32_t size) {
  static int32_t input; /* 0: not open yet */
  if (input == 0) {
    const struct { const char *name; uint32_t mode, length; } console = {":tt", 1, 3};
    input = ask(OPEN, &console);
  }
  uint8_t *next = to;
  while (size > 0) {
    const struct { int32_t file; void *to; uint32_t size; } wanted = {input, next, size};
    const uint32_t left = (uint32_t)ask(READ, &wanted); /* what was not read */
    if (left >= size) return 0;
    next += size - left;
    size = left;
  }
  return 1;
}

int main(void);
extern uint32_t ram_begin, ram_end, stack_top;

void _start(void); /* its usual name */
void _start(void) {
  for (uint32_t *word = &ram_begin; word < &ram_end; word++) *word = 0;
  main();
  ask(EXIT, (const void *)DONE);
}

static void stop(void) { ask(EXIT, (const void *)FAULT); }

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
  (void (*)(void))&stack_top, _start, stop, stop, stop, stop, stop,
};
#else
#include <stdio.h>

static void print(const char *text) { fputs(text, stdout); }

static int read_all(void *to, uint32_t size) { return fread(to, size, 1, stdin) == 1; }
#endif

static void print_numbers(const int32_t *numbers, int count) {
  for (int i = 0; i < count; i++) {
    char text[13] = {0};
    int at = 11;
    const int32_t number = numbers[i];
    uint32_t left = number < 0 ? 0 - (uint32_t)number : (uint32_t)number;
    text[at] = ' ';
    do text[--at] = (char)('0' + left % 10);
    while ((left /= 10) != 0);
    if (number < 0) text[--at] = '-';
    print(text + at);
  }
}

int main(void) {
  while (read_all(sample, sizeof sample)) {
    RUN;
    print_numbers(scores, CLASSES);
#ifdef NEURONS
    print_numbers(counts, NEURONS);
#endif
    print("\n");
  }
  return 0;
}
