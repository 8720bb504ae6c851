/* One sample at a time, driven by its events. `>>` of a negative number rounds down, as every
   compiler in use has it. */

/* keep u + ((factor u) >> right) */
HELPER int32_t leak_one(int32_t u, int keep, int32_t factor, int right) {
  return keep * u + ((factor * u) >> right);
}
