/* One sample, all its steps of time at once. The values of a channel lie side by side, step after
   step, and an output is the sum of such rows at other places: a weight costs one addition for as
   many positions as a word has room for. Additions never carry from one value to the next. */

#if defined(__AVX512BW__)
#define ROW_BYTES 64
#elif defined(__AVX2__)
#define ROW_BYTES 32
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define ROW_BYTES 16
#endif
#if defined(ROW_BYTES) && defined(__GNUC__) && !defined(ONE_WORD)
typedef uint64_t ROW __attribute__((vector_size(ROW_BYTES)));
static const ROW ZEROS = {0};
#else
typedef uint64_t ROW;
static const ROW ZEROS = 0;
#endif

HELPER ROW row_at(const uint8_t *from) {
  ROW row;
  memcpy(&row, from, sizeof row);
  return row;
}

/* A part of a sum, in lists: run[0] is its factor, run[1] the number of its runs, run[2], ... are
   their lengths, the run of the highest power of two first. */

HELPER const PART *next_part(const PART *run) { return run + 2 + run[1]; }

#define ADD_TILE(N)                                                       \
  for (; bytes >= N * (int)sizeof(ROW); bytes -= N * (int)sizeof(ROW)) {  \
    ROW sum[N];                                                           \
    for (int j = 0; j < N; j++) sum[j] = ZEROS;                           \
    at = first;                                                           \
    for (int r = 2; r < 2 + run[1]; r++) {                                \
      for (int j = 0; j < N; j++) sum[j] += sum[j];                       \
      for (int i = 0; i < run[r]; i++, at++)                              \
        for (int j = 0; j < N; j++)                                       \
          sum[j] += row_at(in + *at + j * (int)sizeof(ROW));              \
    }                                                                     \
    for (int j = 0; j < N; j++)                                           \
      memcpy(out + j * (int)sizeof(ROW), &sum[j], sizeof(ROW));           \
    in += N * sizeof(ROW);                                                \
    out += N * sizeof(ROW);                                               \
  }

/* out = the part's sum of rows of so many bytes; returns the places of the next part */
HELPER const PLACE *add_rows(
    const uint8_t *in, const PLACE *first, const PART *run, uint8_t *out, int bytes) {
  const PLACE *at = first;
  ADD_TILE(8)
  ADD_TILE(4)
  ADD_TILE(2)
  bytes += (int)sizeof(ROW) - 1;
  ADD_TILE(1)
  return at;
}

/* the same of a single word, which holds the steps of time of one value */
#define ADD_WORDS(BITS)                                                        \
  HELPER const PLACE *add_words##BITS(                                  \
      const uint8_t *in, const PLACE *at, const PART *run, uint8_t *out) {      \
    uint##BITS##_t sum = 0;                                                    \
    for (int r = 2; r < 2 + run[1]; r++) {                                     \
      sum = (uint##BITS##_t)(sum + sum);                                       \
      for (int i = 0; i < run[r]; i++, at++) {                                 \
        uint##BITS##_t word;                                                   \
        memcpy(&word, in + *at, sizeof word);                                  \
        sum = (uint##BITS##_t)(sum + word);                                    \
      }                                                                        \
    }                                                                          \
    memcpy(out, &sum, sizeof sum);                                             \
    return at;                                                                 \
  }

ADD_WORDS(8)
ADD_WORDS(16)
ADD_WORDS(32)
ADD_WORDS(64)
