/* Many samples at once: one bit of a word is one sample. A number of some bits is as many words,
   its planes, lowest first; a signed one is in two's complement. */

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define VECTOR_BYTES 16
#endif
#if defined(VECTOR_BYTES) && defined(__GNUC__) && !defined(ONE_WORD)
#define WORDS (VECTOR_BYTES / 8)
typedef uint64_t V __attribute__((vector_size(VECTOR_BYTES), aligned(8)));
static const V NONE = {0};
#define ALL (~NONE)
#else
#define WORDS 1
typedef uint64_t V;
static const V NONE = 0;
#define ALL (~NONE)
#endif
#define LANES (64 * WORDS)

HELPER V pick(int bit) { return bit ? ALL : NONE; }
HELPER int bit_of(int64_t number, int place) { return (int)((number >> place) & 1); }

/* carry, sum of three bits */
#define SUM(a, b, c) ((a) ^ (b) ^ (c))
#define CARRY(a, b, c) (((a) & (b)) | ((c) & ((a) ^ (b))))

HELPER void carry_on(V *a, int planes, V carry) {
  for (int i = 0; i < planes; i++) {
    const V next = a[i] & carry;
    a[i] ^= carry;
    carry = next;
  }
}

/* a += the n bits base[at[0]], base[at[1]], ..., each turned over where `flip` is set */
HELPER void count(V *a, int planes, const V *base, const OFFSET *at, int n, V flip) {
  int i = 0;
#define BIT(k) (base[at[i + (k)]] ^ flip)
  if (planes >= 4 && n >= 8) {
    V a0 = a[0], a1 = a[1], a2 = a[2];
    for (; i + 8 <= n; i += 8) {
      const V b0 = BIT(0), b1 = BIT(1), b2 = BIT(2), b3 = BIT(3);
      const V b4 = BIT(4), b5 = BIT(5), b6 = BIT(6), b7 = BIT(7);
      const V s0 = SUM(a0, b0, b1), c0 = CARRY(a0, b0, b1);
      const V s1 = SUM(s0, b2, b3), c1 = CARRY(s0, b2, b3);
      const V s2 = SUM(s1, b4, b5), c2 = CARRY(s1, b4, b5);
      const V c3 = CARRY(s2, b6, b7);
      a0 = SUM(s2, b6, b7);
      const V s3 = SUM(a1, c0, c1), d0 = CARRY(a1, c0, c1);
      const V d1 = CARRY(s3, c2, c3);
      a1 = SUM(s3, c2, c3);
      const V e = CARRY(a2, d0, d1);
      a2 = SUM(a2, d0, d1);
      carry_on(a + 3, planes - 3, e);
    }
    a[0] = a0;
    a[1] = a1;
    a[2] = a2;
  }
  for (; i + 2 <= n; i += 2) {
    const V b0 = BIT(0), b1 = BIT(1), c = CARRY(a[0], b0, b1);
    a[0] = SUM(a[0], b0, b1);
    carry_on(a + 1, planes - 1, c);
  }
  if (i < n) carry_on(a, planes, BIT(0));
#undef BIT
}

/* u += a << shift, a never negative */
HELPER void add(V *u, int bits, const V *a, int planes, int shift) {
  V carry = NONE;
  for (int i = shift; i < bits; i++) {
    const V b = i - shift < planes ? a[i - shift] : NONE, sum = SUM(u[i], b, carry);
    carry = CARRY(u[i], b, carry);
    u[i] = sum;
  }
}

/* u += number, in the lanes that are set */
HELPER void add_number(V *u, int bits, int64_t number, V where) {
  V carry = NONE;
  for (int i = 0; i < bits; i++) {
    const V b = pick(bit_of(number, i)) & where, sum = SUM(u[i], b, carry);
    carry = CARRY(u[i], b, carry);
    u[i] = sum;
  }
}

/* u += number, or `other` in the lanes that are set */
HELPER void add_either(V *u, int bits, int64_t number, int64_t other, V where) {
  V carry = NONE;
  for (int i = 0; i < bits; i++) {
    const V b = pick(bit_of(number, i)) ^ (pick(bit_of(number ^ other, i)) & where);
    const V sum = SUM(u[i], b, carry);
    carry = CARRY(u[i], b, carry);
    u[i] = sum;
  }
}

/* u >= level, both signed */
HELPER V reaches(const V *u, int bits, int64_t level) {
  V borrow = NONE;
  for (int i = 0; i < bits; i++) {
    const V l = pick(bit_of(level, i));
    borrow = (~u[i] & l) | (borrow & ~(u[i] ^ l));
  }
  return ~(u[bits - 1] ^ pick(bit_of(level, bits)) ^ borrow);
}

/* u -= a, in the lanes that are set */
HELPER void take_away(V *u, int bits, const V *a, V where) {
  V carry = where;
  for (int i = 0; i < bits; i++) {
    const V b = ~a[i] & where, rest = SUM(u[i], b, carry);
    carry = CARRY(u[i], b, carry);
    u[i] = rest;
  }
}

/* u - a >= level, all signed */
HELPER V reaches_above(const V *u, const V *a, int bits, int64_t level) {
  V over[64];
  for (int i = 0; i < bits; i++) over[i] = u[i];
  take_away(over, bits, a, ALL);
  return reaches(over, bits, level);
}

/* u = keep u + ((factor u) >> right); `more` planes hold what the factor adds */
HELPER void leak(V *u, int bits, int more, int keep, int64_t factor, int right) {
  V product[64];
  const int wide = bits + more;
  if (factor == 1) {
    for (int i = 0; i < wide; i++) product[i] = u[i < bits ? i : bits - 1];
  } else {
    const int64_t size = factor < 0 ? -factor : factor;
    for (int i = 0; i < wide; i++) product[i] = NONE;
    for (int place = 0; place < more; place++) {
      if (!bit_of(size, place)) continue;
      V carry = NONE;
      for (int i = place; i < wide; i++) {
        const V b = u[i - place < bits ? i - place : bits - 1], sum = SUM(product[i], b, carry);
        carry = CARRY(product[i], b, carry);
        product[i] = sum;
      }
    }
    if (factor < 0) {
      for (int i = 0; i < wide; i++) product[i] = ~product[i];
      add_number(product, wide, 1, ALL);
    }
  }
  V carry = NONE;
  for (int i = 0; i < bits; i++) {
    const V p = product[i + right < wide ? i + right : wide - 1];
    const V old = keep ? u[i] : NONE, sum = SUM(old, p, carry);
    carry = CARRY(old, p, carry);
    u[i] = sum;
  }
}

/* the planes of a signed number as integers, one a sample */
static void to_integers(const V *u, int bits, int32_t *out, int samples, int step) {
  uint64_t words[64][WORDS];
  memcpy(words, u, (size_t)bits * sizeof(V));
  for (int sample = 0; sample < samples; sample++) {
    uint32_t number = (words[bits - 1][sample / 64] >> (sample % 64)) & 1 ? ~UINT32_C(0) : 0;
    for (int i = bits - 1; i-- > 0;)
      number = (number << 1) | (uint32_t)((words[i][sample / 64] >> (sample % 64)) & 1);
    out[sample * step] = (int32_t)number;
  }
}

/* how often each sample's bit is set at the steps, added to its counter */
HELPER void tally(V fired, int32_t *counter, int samples, int step) {
  uint64_t words[WORDS];
  memcpy(words, &fired, sizeof(V));
  for (int sample = 0; sample < samples; sample++)
    counter[sample * step] += (int32_t)((words[sample / 64] >> (sample % 64)) & 1);
}

/* Runs of bits: for each output the number of runs, then (2 power + turned over, length) each. */

HELPER void collect(V *a, int planes, const V *base, const RUN *run, const OFFSET *bit) {
  for (int runs = (int)*run++; runs > 0; runs--, run += 2) {
    const int power = (int)run[0] / 2, n = (int)run[1];
    if (run[0] % 2)
      count(a + power, planes - power, base, bit, n, ALL);
    else
      count(a + power, planes - power, base, bit, n, NONE);
    bit += n;
  }
}

HELPER const OFFSET *past_bits(const RUN *run, const OFFSET *bit) {
  for (int runs = (int)*run++; runs > 0; runs--, run += 2) bit += run[1];
  return bit;
}

HELPER const RUN *past_runs(const RUN *run) { return run + 1 + 2 * (int)*run; }

/* sum += u, both signed */
HELPER void add_signed(V *sum, int wide, const V *u, int bits) {
  V carry = NONE;
  for (int i = 0; i < wide; i++) {
    const V b = u[i < bits ? i : bits - 1], next = CARRY(sum[i], b, carry);
    sum[i] = SUM(sum[i], b, carry);
    carry = next;
  }
}

/* a < b, neither negative */
HELPER V below(const V *a, const V *b, int planes) {
  V borrow = NONE;
  for (int i = 0; i < planes; i++) borrow = (~a[i] & b[i]) | (borrow & ~(a[i] ^ b[i]));
  return borrow;
}

/* memory of numbers of some planes, all set to one value: the border of an image */
HELPER void clear(V *out, long words, int planes, int value) {
  for (long i = 0; i < words; i++) out[i] = pick(bit_of(value, (int)(i % planes)));
}
