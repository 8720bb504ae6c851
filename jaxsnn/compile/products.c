/* Products of bytes: the values of a position lie side by side, a weight is a byte, and four
   products at a time are added to one of many sums. Rows are positions, or steps of time. */

#if defined(__GNUC__) && (defined(__AVX512VNNI__) || defined(__AVX2__))
#include <immintrin.h>
#endif
#ifdef __GNUC__
#define UNROLLED __attribute__((always_inline, unused)) static inline
#define ALIGNED __attribute__((aligned(64))) /* or a tile's rows take twice as long to load */
#else
#define UNROLLED static inline
#define ALIGNED
#endif
#define LINE 16 /* sums side by side */

#if defined(__GNUC__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(ONE_WORD)
#define MOST_ROWS 8
#define SIDE 2 /* lines at a time: registers for sums are rows times lines */
typedef struct { __m512i all; } SUMS;

UNROLLED void clear_sums(SUMS *sums) { sums->all = _mm512_setzero_si512(); }

UNROLLED void add_products(SUMS *sums, uint32_t values, const int8_t *weights, int wide) {
  (void)wide;
  const __m512i x = _mm512_set1_epi32((int)values), w = _mm512_loadu_si512(weights);
  sums->all = _mm512_dpbusd_epi32(sums->all, x, w);
}

UNROLLED void store_sums(int32_t *out, const SUMS *sums) { _mm512_storeu_si512(out, sums->all); }

#elif defined(__GNUC__) && defined(__AVX2__) && !defined(ONE_WORD)
#define MOST_ROWS 4
#define SIDE 1
typedef struct { __m256i low, high; } SUMS;

UNROLLED void clear_sums(SUMS *sums) { sums->low = sums->high = _mm256_setzero_si256(); }

UNROLLED __m256i four_products(__m256i x, __m256i w) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1));
}

/* Two neighbours are added in 16 bits first. Where these are too few, one of them is 0. */
UNROLLED void add_products(SUMS *sums, uint32_t values, const int8_t *weights, int wide) {
  const __m256i x = _mm256_set1_epi32((int)values);
  const __m256i w = _mm256_loadu_si256((const void *)weights);
  const __m256i v = _mm256_loadu_si256((const void *)(weights + 32));
  if (!wide) {
    sums->low = _mm256_add_epi32(sums->low, four_products(x, w));
    sums->high = _mm256_add_epi32(sums->high, four_products(x, v));
    return;
  }
  const __m256i even = _mm256_and_si256(x, _mm256_set1_epi16(0xFF));
  const __m256i odd = _mm256_xor_si256(x, even);
  sums->low = _mm256_add_epi32(
      sums->low, _mm256_add_epi32(four_products(even, w), four_products(odd, w)));
  sums->high = _mm256_add_epi32(
      sums->high, _mm256_add_epi32(four_products(even, v), four_products(odd, v)));
}

UNROLLED void store_sums(int32_t *out, const SUMS *sums) {
  _mm256_storeu_si256((void *)out, sums->low);
  _mm256_storeu_si256((void *)(out + 8), sums->high);
}

#else
#define MOST_ROWS 4
#define SIDE 1
typedef struct { int32_t each[LINE]; } SUMS;

UNROLLED void clear_sums(SUMS *sums) { memset(sums, 0, sizeof *sums); }

UNROLLED void add_products(SUMS *sums, uint32_t values, const int8_t *weights, int wide) {
  (void)wide;
  uint8_t x[4];
  memcpy(x, &values, sizeof x);
  for (int o = 0; o < LINE; o++)
    for (int j = 0; j < 4; j++) sums->each[o] += x[j] * weights[4 * o + j];
}

UNROLLED void store_sums(int32_t *out, const SUMS *sums) { memcpy(out, sums, sizeof *sums); }
#endif

/* What a layer multiplies: for each of `runs` rows of a window `groups` of four bytes, `apart` from
   row to row; weights [runs][groups][width][4]. A row of sums begins `step` bytes further in. It is
   wide if two products can be beyond 16 bits. */
typedef struct { int runs, groups, apart, width, step, wide; } Shape;

UNROLLED void multiply_some(
    const uint8_t *in, const int8_t *weights, Shape s, int32_t *out, int rows, int lines) {
  SUMS sums[MOST_ROWS][SIDE];
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < lines; i++) clear_sums(&sums[r][i]);
  for (int run = 0; run < s.runs; run++) {
    const uint8_t *from = in + run * s.apart;
    for (int g = 0; g < s.groups; g++, from += 4, weights += 4 * s.width)
      for (int r = 0; r < rows; r++) {
        uint32_t values;
        memcpy(&values, from + r * s.step, sizeof values);
        for (int i = 0; i < lines; i++)
          add_products(&sums[r][i], values, weights + 4 * LINE * i, s.wide);
      }
  }
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < lines; i++) store_sums(out + r * s.width + LINE * i, &sums[r][i]);
}

/* out[rows][width] */
UNROLLED void multiply(const uint8_t *in, const int8_t *weights, Shape s, int32_t *out, int rows) {
  for (int first = 0; first < s.width; first += SIDE * LINE) {
    const int lines = s.width - first < SIDE * LINE ? (s.width - first) / LINE : SIDE;
    const int8_t *w = weights + 4 * first;
    int r = 0;
#define ROWS(n) multiply_some(in + r * s.step, w, s, out + r * s.width + first, n, lines), r += n
    while (r + MOST_ROWS <= rows) ROWS(MOST_ROWS);
    if (r + 4 <= rows) ROWS(4);
    if (r + 2 <= rows) ROWS(2);
    if (r + 1 <= rows) ROWS(1);
#undef ROWS
  }
}

#if defined(__AMX_INT8__) && defined(__x86_64__) && defined(__linux__) && !defined(ONE_WORD)
/* Tiles of 16 rows and 64 bytes, which Linux lends to a process that asks for them. */
long syscall(long number, ...);

/* whether this thread has tiles from now on, until `end_tiles` */
HELPER int begin_tiles(void) {
  static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  static int asked, lent;
  if (!asked) {
    lent = syscall(158 /* arch_prctl */, 0x1023L /* ARCH_REQ_XCOMP_PERM */, 18L) == 0;
    asked = 1;
  }
  const int tiles = lent;
  if (tiles) _tile_loadconfig(&shape);
  return tiles;
}

HELPER void end_tiles(int tiles) {
  if (tiles) _tile_release();
}

/* out[2][16][width]: 16 rows at `in`, and 16 `further` */
UNROLLED void multiply_tiles(
    const uint8_t *in, int further, const int8_t *weights, Shape s, int32_t *out) {
  const int pitch = 4 * s.width;
  for (int first = 0; first < s.width; first += 2 * LINE) {
    const int two = s.width - first > LINE;
    const int8_t *w = weights + 4 * first;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int run = 0; run < s.runs; run++) {
      const uint8_t *from = in + run * s.apart;
      for (int g = 0; g < s.groups; g += 16, from += 64, w += 16 * pitch) {
        _tile_loadd(4, from, s.step);
        _tile_loadd(5, from + further, s.step);
        _tile_loadd(6, w, pitch);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(2, 5, 6);
        if (!two) continue;
        _tile_loadd(7, w + 4 * LINE, pitch);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(3, 5, 7);
      }
    }
    _tile_stored(0, out + first, pitch);
    _tile_stored(2, out + 16 * s.width + first, pitch);
    if (!two) continue;
    _tile_stored(1, out + first + LINE, pitch);
    _tile_stored(3, out + 16 * s.width + first + LINE, pitch);
  }
}
#else
HELPER int begin_tiles(void) { return 0; }
HELPER void end_tiles(int tiles) { (void)tiles; }
#define multiply_tiles multiply_twice
#endif

/* the same without tiles */
UNROLLED void multiply_twice(
    const uint8_t *in, int further, const int8_t *weights, Shape s, int32_t *out) {
  multiply(in, weights, s, out, 16);
  multiply(in + further, weights, s, out + 16 * s.width, 16);
}
