/* One sample at a time, driven by its events. */

/* keep u + ((factor u) >> right), rounded down whatever `>>` does to negative numbers */
static inline int32_t leak_one(int32_t u, int keep, int32_t factor, int right) {
  const int32_t product = factor * u;
  const int32_t decayed = product >= 0 ? product >> right : ~(~product >> right);
  return keep * u + decayed;
}
