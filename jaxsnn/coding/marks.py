"""How likely each weight of a leaf is to be kept, told from those that came before it.

Weights come in the order of their numbers, in steps. Of what is known before a step, the shares of
kept weights in the whole leaf (`d`), in the output channel, in the row of inputs and, for a kernel
with places, in the channel pair make a score

    score = d  product over these groups of  (kept + a d) / (seen + a) / d

which is the odds of independent causes. The score, a whole number of 65536ths, falls into one of
the classes between `EDGES`, two to an octave, and each class counts what happens in it: so whatever
the score means, the share is learned, and a mask without structure costs no more than its entropy
and the few bits of that learning.

A mask that keeps `n` of every `m` inputs has other classes: the place within the group, and how
many the group has kept so far.

Letters in shapes: `b` weights of a step, `C` classes.
"""

import math

import numpy as np

__all__ = ["ByGroup", "ByScore"]

ONE = 1 << 16  # the score of certainty
EDGES = np.sort([1 << k for k in range(3, 18)] + [3 << k for k in range(2, 16)])
PRIOR = 8  # weights that the share of the whole leaf stands for in a group: `a`
FIRST = 16  # weights that the writer's share stands for in the whole leaf
COUNT = 1024  # what one weight adds to its class
WEIGHT = 8  # weights that the middle of a class stands for in it


class ByScore:
    """The classes of weights by the shares of their groups; a new one for each leaf."""

    def __init__(self, shape: tuple[int, ...], share: int) -> None:
        """Begin with nothing seen.

        Args:
          shape: of the leaf.
          share: of kept weights, in 256ths, 1 to 255.
        """
        outputs = shape[-1] if shape else 1
        inputs = shape[-2] if len(shape) > 1 else 1
        rows = math.prod(shape[:-1])
        sizes = [outputs, rows, *([inputs * outputs] if rows > inputs else [])]
        self._sizes = np.array(sizes).reshape(-1, 1)
        self._starts = (np.cumsum(sizes) - sizes).reshape(-1, 1)
        self._outputs, self._share = outputs, share << 8
        self._kept, self._seen = np.zeros(sum(sizes), np.int32), np.zeros(sum(sizes), np.int32)
        self._all = [0, 0]  # kept and seen of the whole leaf
        low, high = np.append(EDGES[0] // 2, EDGES), np.append(EDGES, 2 * ONE)
        kept = np.minimum((low + high) // 2, ONE - ONE // 32) * (WEIGHT * COUNT) // ONE
        self.counts = np.stack([WEIGHT * COUNT - kept, np.maximum(kept, 1)], 1)

    def classes(self, places: np.ndarray) -> np.ndarray:
        """Return the class of each weight of a step, `[b]`.

        Args:
          places: numbers of the weights, int64 `[b]`.
        """
        self._groups = self._groups_of(places)
        kept, seen = self._all
        share = max((kept * ONE + self._share * FIRST) // (seen + FIRST), 1)
        parts = self._kept[self._groups].astype(np.int64) * ONE + share * PRIOR
        parts //= self._seen[self._groups] + PRIOR
        score = parts[0]
        for part in parts[1:]:
            score = score * part // share
        classes: np.ndarray = np.searchsorted(EDGES, score, "right")
        self._classes = classes
        return classes

    def learn(self, marks: np.ndarray) -> None:
        """Take in what the weights of the step were, 0 or 1, int64 `[b]`."""
        np.add.at(self.counts, (self._classes, marks), COUNT)
        np.add.at(self._kept, self._groups, np.broadcast_to(marks, self._groups.shape))
        np.add.at(self._seen, self._groups, 1)
        self._all[0] += int(marks.sum())
        self._all[1] += marks.size

    def _groups_of(self, places: np.ndarray) -> np.ndarray:
        """Return the channel, the row, and the channel pair of weights, `[2 or 3, b]`."""
        row, output = np.divmod(places, self._outputs)
        found = np.stack([output, row, places][: len(self._sizes)])
        groups: np.ndarray = found % self._sizes + self._starts
        return groups


class ByGroup:
    """The classes of weights by the place in their group of inputs; a new one for each leaf."""

    def __init__(self, shape: tuple[int, ...], size: int) -> None:
        """Begin with nothing seen.

        Args:
          shape: of the leaf, two axes or more.
          size: of a group, `m`.
        """
        self._inputs, self._outputs = shape[-2:]
        self._size, self._each = size, -(-self._inputs // size)
        groups = math.prod(shape[:-2]) * self._each * self._outputs
        self._kept = np.zeros(groups, np.int64)
        self.counts = np.full((size * (size + 1), 2), COUNT // 2)

    def classes(self, places: np.ndarray) -> np.ndarray:
        """Return the class of each weight of a step, `[b]`.

        Args:
          places: numbers of the weights, int64 `[b]`.
        """
        row, output = np.divmod(places, self._outputs)
        position, number = np.divmod(row, self._inputs)
        group, place = np.divmod(number, self._size)
        self._groups = (position * self._each + group) * self._outputs + output
        classes: np.ndarray = place * (self._size + 1) + self._kept[self._groups]
        self._classes = classes
        return classes

    def learn(self, marks: np.ndarray) -> None:
        """Take in what the weights of the step were, 0 or 1, int64 `[b]`."""
        np.add.at(self.counts, (self._classes, marks), COUNT)
        np.add.at(self._kept, self._groups, marks)
