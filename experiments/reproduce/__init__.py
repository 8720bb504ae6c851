"""Rerun a stored row of results/ and compare every number with it, or store it anew.

Without arguments the rows are listed: what each shows, its minutes, when it was stored, and with
which release of jaxsnn.

    python -m experiments.reproduce
    python -m experiments.reproduce --only joint-mnist --data-dir DIR
    python -m experiments.reproduce --only joint-mnist --data-dir DIR --store

Each seed is a run of its own below --out, by the row's own program. Whatever interrupts it, the
same command goes on where it stopped: finished runs are read back, an unfinished one is resumed.

**When a number is reproduced.** Let a network have the values `a_1 ... a_k` over the stored seeds
and `b_1 ... b_m` over the fresh ones.

- *same*: every fresh seed is stored too, and has the same value to six digits.
- *within error*: the means differ by at most three errors,
  `|mean(a) - mean(b)| <= 3 sqrt((s^2 + t^2) (1 / k + 1 / m))`,
  where `s` is the standard deviation of the stored seeds (of the fresh ones if one is stored, 0 if
  one is fresh, too) and `t` what one evaluation is uncertain by: the binomial error
  `sqrt(p (1 - p) / n)` of an accuracy on `n` test samples, with `p = (n a + 2) / (n + 4)` (Agresti
  and Coull 1998) so that it never vanishes; of other numbers 3 % (density, bytes) or 5 % (SynOps).
- *NOT reproduced*: everything else, and a network or a number that is gone. The exit code is 1.

Three errors, because a row has some twenty numbers: by chance one of twenty lies outside of two.
"""
