"""Decode the text of a packed network and the streams of its leaves, for `decode_numpy.py`.

`jaxsnn/export/compact.py` and `stream.py`, `rans.py`, `marks.py` of `jaxsnn/coding` say how.
"""

import zlib

import numpy as np

WORDS = (
    b'"conv1":{"kind":"residual","norm":{"momentum":0.9,"epsilon":1e-05},"norm/bias":[64],"norm/sca'
    b'le":[128],"norm/mean":[256],"norm/var":[512],"kind":"integrator","decay":null},"max_pool","so'
    b'ft","triangle"{"by":{"jaxsnn":"0.2.0","jax":"0.10.2"},"metadata":{"accuracy":"0.98","dataset"'
    b':"cifar10","mnist","digits","name":"compressed"},"inputs":{"shape":[28,28,1],"timesteps":4,"e'
    b'ncoding":"direct","mean":null,"std":null},"layers":[{"name":"conv1","kind":"conv","norm":null'
    b',"dtype":"float32","neurons":{"kind":"lif","reset":"hard","strict":true,"detach_reset":false,'
    b'"order":"integrate_then_fire","surrogate":{"curve":"rectangle","width":1.0,"peak":1.0,"normal'
    b'ized":false},"trained":[],"decay":[],"threshold":[]},"stride":1,"padding":"SAME","params":{"b'
    b'ias":[32],"kernel":[3,3,1,32]},"stats":{"neurons/decay":0.5,"neurons/threshold":0.5}},{"name"'
    b':"pool1","kind":"average_pool","size":2},{"name":"conv2","kind":"conv","params":{"bias":[64],'
    b'"kernel":[3,3,64,128]}},{"name":"pool2","kind":"average_pool"},{"name":"flatten1","kind":"fla'
    b'tten"},{"name":"dense1","kind":"dense","norm":null,"dtype":"float32",'
)
EDGES = np.sort([1 << k for k in range(3, 18)] + [3 << k for k in range(2, 16)])


def inflate(packed):
    """Return the text of a file; deflate knows some words before it begins."""
    return zlib.decompressobj(-15, WORDS).decompress(packed)


def scored(shape, share):
    """Return the counts of the classes of marks, and the functions that find and teach them."""
    (inputs, outputs), rows = [1, 1, *shape][-2:], int(np.prod(shape[:-1]))
    sizes = np.array([outputs, rows, *[inputs * outputs] * (rows > inputs)]).reshape(-1, 1)
    kept, seen = np.zeros((2, len(sizes), max(sizes.ravel())), np.int64)
    whole = [share * 4096, 16]
    middle = (np.append(EDGES[0] // 2, EDGES) + np.append(EDGES, 1 << 17)) // 2
    ones = np.minimum(middle, 63488) * 8192 >> 16
    counts = np.stack([8192 - ones, np.maximum(ones, 1)], 1)

    def groups(places):
        each = np.stack([places % outputs, places // outputs, places][: len(sizes)]) % sizes
        return np.arange(len(sizes)).reshape(-1, 1), each

    def classes(places):
        where, all_kept = groups(places), max(whole[0] // whole[1], 1)
        parts = (kept[where] * 65536 + all_kept * 8) // (seen[where] + 8)
        score = all_kept
        for part in parts:
            score = score * part // all_kept
        return np.searchsorted(EDGES, score, "right")

    def learn(places, marks):
        np.add.at(kept, groups(places), marks)
        np.add.at(seen, groups(places), 1)
        whole[:] = whole[0] + 65536 * int(marks.sum()), whole[1] + marks.size

    return counts, classes, learn


def grouped(shape, size):
    """Return the same for a mask that keeps some of every `size` inputs."""
    kept = np.zeros((*shape[:-2], -(-shape[-2] // size), shape[-1]), np.int64).ravel()

    def groups(places):
        row, output = np.divmod(places, shape[-1])
        position, number = np.divmod(row, shape[-2])
        group = position * -(-shape[-2] // size) + number // size
        return group * shape[-1] + output, number % size * (size + 1)

    def learn(places, marks):
        np.add.at(kept, groups(places)[0], marks)

    counts = np.full((size * (size + 1), 2), 512)
    return counts, lambda places: groups(places)[1] + kept[groups(places)[0]], learn


def read_stream(content, shape, widths, has_codes):
    """Return which weights are kept, and their codes."""
    (steps, share, kind, last), place = content[:4].tolist(), 0
    lanes, block = 1 << (steps & 15), 1 << (steps >> 4)
    states, words = np.split(content[4:], [4 * lanes])
    states, words = states.view("<u4").astype(np.int64), words.view("<u2").astype(np.int64)

    def symbols(size, counts, classes, learn):
        nonlocal place
        found, alphabet = np.zeros(size, np.int64), counts.shape[1]
        for first in range(0, size, block):
            places = np.arange(first, min(first + block, size))
            before, which = np.cumsum(counts, 1), classes(places)
            low = (before - counts) * (16384 - alphabet) // before[:, -1:] + np.arange(alphabet)
            shares = np.diff(low, append=16384).ravel()
            low = (low + 16384 * np.arange(len(low)).reshape(-1, 1)).ravel()
            for start in range(0, places.size, lanes):
                here = which[start : start + lanes]
                state = states[: here.size]
                slot = state % 16384 + 16384 * here.astype(np.int64)
                at = np.searchsorted(low, slot, "right") - 1
                state = shares[at] * (state >> 14) + slot - low[at]
                short = np.flatnonzero(state < 65536)
                state[short] = state[short] << 16 | words[place : place + short.size]
                states[: here.size], place = state, place + short.size
                found[places[start : start + lanes]] = at % alphabet
            np.add.at(counts, (which, found[places]), 1024)
            learn(places, found[places])
        return found

    kept = np.ones(int(np.prod(shape)), bool)
    if share:
        model = grouped(shape, kind % 128) if kind % 128 else scored(shape, share)
        kept = symbols(kept.size, *model) != kind >> 7
    each, most = np.broadcast_to(widths, shape).ravel()[kept], int(np.max(widths, initial=0))
    (width, code), middle = np.ogrid[: most + 1, : last + 1], 1 << most >> 1
    half = 1 << width >> 1  # codes of fewer bits are those around the middle
    inside = (code >= middle - half) & (code < middle + np.maximum(half, 1)) | (width == most)
    counts = 512 * inside
    counts[:, 0] += ~inside.any(1)
    return kept, symbols(each.size * has_codes, counts, lambda at: each[at], lambda *_: None)
