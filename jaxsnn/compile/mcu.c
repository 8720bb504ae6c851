/* One sample at a time, with little memory: weights are a stream of bits, a spike is a bit, and
   potentials are as narrow as proved. `>>` of a negative number rounds down, and a number that does
   not fit wraps, as every compiler in use has it. */

typedef struct {
  const uint8_t *next;
  uint32_t bits;
  uint32_t have; /* bits that were read and not taken */
} Reader;

HELPER Reader read_from(const uint8_t *stream, uint32_t place) {
  Reader r = {stream + place / 8, 0, 0};
  if (place % 8) {
    r.bits = (uint32_t)*r.next++ >> place % 8;
    r.have = 8 - place % 8;
  }
  return r;
}

/* the next bits, 24 at most, lowest first */
HELPER uint32_t take(Reader *r, uint32_t width) {
  while (r->have < width) {
    r->bits |= (uint32_t)*r->next++ << r->have;
    r->have += 8;
  }
  const uint32_t value = r->bits & ((UINT32_C(1) << width) - 1);
  r->bits >>= width;
  r->have -= width;
  return value;
}

HELPER uint32_t take_wide(Reader *r, uint32_t width) {
  const uint32_t low = take(r, 16);
  return low | take(r, width - 16) << 16;
}

HELPER int bit_at(const uint8_t *bits, int place) {
  return (bits[place / 8] >> (place % 8)) & 1;
}

HELPER void put_bit(uint8_t *bits, int place, int bit) {
  const int rest = bits[place / 8] & ~(1 << (place % 8));
  bits[place / 8] = (uint8_t)(rest | (bit << (place % 8)));
}

/* keep u + ((factor u) >> right) */
HELPER int32_t leak_one(int32_t u, int keep, int32_t factor, int right) {
  return keep * u + ((factor * u) >> right);
}
