// What surrounds a convolution, channel by channel, as functions that XLA calls: the sums and the
// scaling of a batch norm, means and largest of windows, each with its derivative.
//
// Layout: [lanes, n, C] with numbers of each channel [lanes, C], and images [N, H, W, C]; float32
// or bfloat16. Everything is computed in float32, long sums in float64, and rounded once. The
// result is the same for any number of threads.

#include <algorithm>
#include <utility>
#include <vector>

namespace {

constexpr int64_t kLeast = 256;   // numbers of a strip, at least
constexpr int64_t kStrips = 128;  // that are summed up in float32

// Numbers with channels last, in strips of whole rows: a row of few channels is too short a loop.
struct Call {
  int64_t lanes, rows, channels, threads;

  Call(int64_t size, int64_t rows, int64_t channels, int64_t threads)
      : lanes(size / (rows * channels)), rows(rows), channels(channels), threads(threads) {}
  int64_t length() const { return (kLeast + channels - 1) / channels * channels; }
  int64_t block() const { return length() * kStrips; }
  int64_t size() const { return rows * channels; }
  int64_t blocks() const { return (size() + block() - 1) / block(); }

  std::vector<float> laid_out(const float *each) const {
    std::vector<float> found(length());
    for (int64_t i = 0; i < length(); ++i) found[i] = each[i % channels];
    return found;
  }
};

// sums[c] = sum x, products[c] = sum x (y - center[c])
template <typename T>
void sum(const Call &call, const T *x, const T *y, const float *center, float *sums,
         float *products) {
  const int64_t length = call.length(), channels = call.channels;
  for (int64_t lane = 0; lane < call.lanes; ++lane) {
    const auto centers = call.laid_out(center + lane * channels);
    const T *first = x + lane * call.size(), *second = y + lane * call.size();
    std::vector<float> partial(2 * length * call.blocks(), 0.0f);
#pragma omp parallel for num_threads(call.threads) if (call.threads > 1)
    for (int64_t block = 0; block < call.blocks(); ++block) {
      float *a = partial.data() + 2 * length * block, *b = a + length;
      const float *m = centers.data();
      const int64_t end = std::min((block + 1) * call.block(), call.size());
      for (int64_t at = block * call.block(); at < end; at += length) {
        const T *p = first + at, *q = second + at;
        const int64_t count = std::min(length, end - at);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
          const float value = wide(p[i]);
          a[i] += value;
          b[i] += value * (wide(q[i]) - m[i]);
        }
      }
    }
    std::vector<double> total(2 * channels, 0.0);
    for (int64_t block = 0; block < call.blocks(); ++block) {
      const float *a = partial.data() + 2 * length * block;
      for (int64_t i = 0; i < 2 * length; ++i)
        total[i < length ? i % channels : channels + i % channels] += a[i];
    }
    for (int64_t c = 0; c < channels; ++c) {
      sums[lane * channels + c] = static_cast<float>(total[c]);
      products[lane * channels + c] = static_cast<float>(total[channels + c]);
    }
  }
}

// out = a[c] x + b[c] (y - center[c]) + c[c]; without x only the rest
template <bool with_x, typename T>
void mix(const Call &call, const T *x, const T *y, const float *center, const float *by_x,
         const float *by_y, const float *offset, T *out) {
  const int64_t length = call.length(), channels = call.channels;
  for (int64_t lane = 0; lane < call.lanes; ++lane) {
    const auto centers = call.laid_out(center + lane * channels);
    const auto xs = call.laid_out(by_x + lane * channels), ys = call.laid_out(by_y + lane * channels);
    const auto offsets = call.laid_out(offset + lane * channels);
    const int64_t begin = lane * call.size();
#pragma omp parallel for num_threads(call.threads) if (call.threads > 1)
    for (int64_t block = 0; block < call.blocks(); ++block) {
      const float *m = centers.data(), *a = xs.data(), *b = ys.data(), *c = offsets.data();
      const int64_t end = std::min((block + 1) * call.block(), call.size());
      for (int64_t at = block * call.block(); at < end; at += length) {
        const T *p = with_x ? x + begin + at : nullptr, *q = y + begin + at;
        T *o = out + begin + at;
        const int64_t count = std::min(length, end - at);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
          const float rest = b[i] * (wide(q[i]) - m[i]) + c[i];
          o[i] = rounded<T>(with_x ? a[i] * wide(p[i]) + rest : rest);
        }
      }
    }
  }
}

// Images [N, H, W, C] in windows size x size that do not overlap; what is left over belongs to none.
struct Windows {
  int64_t samples, height, width, channels, size, threads;

  int64_t rows() const { return height / size; }
  int64_t columns() const { return width / size; }
  int64_t across() const { return width * channels; }
};

template <typename T>
void average(const Windows &w, const T *images, T *means) {
  const int64_t taps = w.columns() * w.size * w.channels;
  const float share = 1.0f / static_cast<float>(w.size * w.size);
#pragma omp parallel num_threads(w.threads) if (w.threads > 1)
  {
    std::vector<float> sums(taps), found(w.columns() * w.channels);
#pragma omp for
    for (int64_t line = 0; line < w.samples * w.rows(); ++line) {
      const int64_t sample = line / w.rows(), row = line % w.rows();
      const T *first = images + (sample * w.height + row * w.size) * w.across();
      float *s = sums.data();
      for (int64_t i = 0; i < taps; ++i) s[i] = wide(first[i]);
      for (int64_t down = 1; down < w.size; ++down) {
        const T *next = first + down * w.across();
        for (int64_t i = 0; i < taps; ++i) s[i] += wide(next[i]);
      }
      for (int64_t column = 0; column < w.columns(); ++column) {
        float *f = found.data() + column * w.channels;
        const float *window = s + column * w.size * w.channels;
        std::copy_n(window, w.channels, f);
        for (int64_t right = 1; right < w.size; ++right)
          for (int64_t c = 0; c < w.channels; ++c) f[c] += window[right * w.channels + c];
      }
      T *out = means + line * w.columns() * w.channels;
      for (int64_t i = 0; i < w.columns() * w.channels; ++i) out[i] = rounded<T>(found[i] * share);
    }
  }
}

// The derivative by the images: that of a mean, in equal shares.
template <typename T>
void spread(const Windows &w, const T *means, T *images) {
  const float share = 1.0f / static_cast<float>(w.size * w.size);
#pragma omp parallel num_threads(w.threads) if (w.threads > 1)
  {
    std::vector<T> across(w.across(), T{0}), shares(w.columns() * w.channels);
#pragma omp for
    for (int64_t line = 0; line < w.samples * w.rows(); ++line) {
      const int64_t sample = line / w.rows(), row = line % w.rows();
      const T *given = means + line * w.columns() * w.channels;
      for (int64_t i = 0; i < w.columns() * w.channels; ++i) shares[i] = rounded<T>(wide(given[i]) * share);
      for (int64_t column = 0; column < w.columns() * w.size; ++column)
        std::copy_n(shares.data() + column / w.size * w.channels, w.channels,
                    across.data() + column * w.channels);
      T *out = images + (sample * w.height + row * w.size) * w.across();
      for (int64_t down = 0; down < w.size; ++down)
        std::copy_n(across.data(), w.across(), out + down * w.across());
      if (row == w.rows() - 1)  // and what is left over below
        std::fill_n(out + w.size * w.across(), (w.height - w.rows() * w.size) * w.across(), T{0});
    }
  }
}

// Call a function of (first number of a window in the images, its first one in the outputs).
template <typename Body>
void each_window(const Windows &w, const Body &body) {
#pragma omp parallel for num_threads(w.threads) if (w.threads > 1)
  for (int64_t line = 0; line < w.samples * w.rows(); ++line) {
    const int64_t row = line / w.rows() * w.height + line % w.rows() * w.size;
    for (int64_t column = 0; column < w.columns(); ++column)
      body(row * w.across() + column * w.size * w.channels, (line * w.columns() + column) * w.channels);
  }
}

// The largest of a window, in one channel; NaN if there is one.
template <int64_t size, typename T>
inline float largest_of(const T *window, int64_t across, int64_t channels) {
  float found = -INFINITY;
  for (int64_t place = 0; place < size * size; ++place) {
    const float value = wide(window[place / size * across + place % size * channels]);
    found = value > found || value != value ? value : found;
  }
  return found;
}

template <int64_t size, typename T>
void largest(const Windows &w, const T *images, T *outputs) {
  const int64_t across = w.across(), channels = w.channels;
  each_window(w, [=](int64_t from, int64_t to) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c)
      outputs[to + c] = rounded<T>(largest_of<size>(images + from + c, across, channels));
  });
}

// The derivative by the images: to the first of a window that is its largest, or to all in shares.
template <int64_t size, bool shared, typename T>
void to_largest(const Windows &w, const T *images, const T *cotangent, T *derivative) {
  const int64_t across = w.across(), channels = w.channels;
  if (w.height % size || w.width % size)  // what belongs to no window
    std::fill_n(derivative, w.samples * w.height * across, T{0});
  each_window(w, [=](int64_t from, int64_t to) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const T *window = images + from + c;
      const float most = largest_of<size>(window, across, channels);
      float ties = 0.0f, left = wide(cotangent[to + c]);
      for (int64_t place = 0; place < size * size; ++place)
        ties += wide(window[place / size * across + place % size * channels]) == most ? 1.0f : 0.0f;
      if (shared) left /= ties;
      for (int64_t place = 0; place < size * size; ++place) {
        const int64_t at = place / size * across + place % size * channels;
        const float value = wide(window[at]);
        const bool taken = value == most || value != value;
        derivative[from + c + at] = rounded<T>(taken ? left : 0.0f);
        left = taken && !shared ? 0.0f : left;
      }
    }
  });
}

// Call a function with a size of windows that is known when it is compiled.
template <typename Body>
void with_size(int64_t size, const Body &body) {
  switch (size) {
    case 2: return body(std::integral_constant<int64_t, 2>());
    case 3: return body(std::integral_constant<int64_t, 3>());
    case 4: return body(std::integral_constant<int64_t, 4>());
    default: throw std::invalid_argument("windows of 2, 3 and 4 pixels are searched");
  }
}

Call call_of(const Frame &frame, const Array &array) {
  const int64_t rows = frame.whole("rows"), channels = frame.whole("channels");
  return Call(size_of(array), rows, channels, frame.threads(rows * channels));
}

// Given: x, y, center.
void run_sum(const Frame &frame) {
  with_type(frame.given(0), [&](auto type) {
    using T = decltype(type);
    sum<T>(call_of(frame, frame.given(0)), frame.from<T>(0), frame.from<T>(1),
           frame.from<float>(2), frame.to<float>(0), frame.to<float>(1));
  });
}

// Given: x, y, center, the factors of x and of y, what is added.
void run_mix(const Frame &frame) {
  with_type(frame.given(1), [&](auto type) {
    using T = decltype(type);
    const auto run = frame.is("with_x") ? mix<true, T> : mix<false, T>;
    run(call_of(frame, frame.given(1)), frame.from<T>(0), frame.from<T>(1), frame.from<float>(2),
        frame.from<float>(3), frame.from<float>(4), frame.from<float>(5), frame.to<T>(0));
  });
}

Windows windows_of(const Frame &frame, const Array &images) {
  const int64_t height = frame.whole("height"), width = frame.whole("width");
  const int64_t channels = frame.whole("channels");
  return Windows{size_of(images) / (height * width * channels), height, width, channels,
                 frame.whole("size"), frame.threads(size_of(images))};
}

void run_average(const Frame &frame) {
  with_type(frame.given(0), [&](auto type) {
    using T = decltype(type);
    average<T>(windows_of(frame, frame.given(0)), frame.from<T>(0), frame.to<T>(0));
  });
}

void run_spread(const Frame &frame) {
  with_type(frame.given(0), [&](auto type) {
    using T = decltype(type);
    spread<T>(windows_of(frame, frame.result(0)), frame.from<T>(0), frame.to<T>(0));
  });
}

// Call a function with windows, their type, and their size as it is known to the compiler.
template <typename Body>
void with_windows(const Frame &frame, const Body &body) {
  const Windows w = windows_of(frame, frame.given(0));
  with_type(frame.given(0), [&](auto type) {
    with_size(w.size, [&](auto size) { body(w, type, size); });
  });
}

void run_largest(const Frame &frame) {
  with_windows(frame, [&](const Windows &w, auto type, auto size) {
    using T = decltype(type);
    largest<decltype(size)::value, T>(w, frame.from<T>(0), frame.to<T>(0));
  });
}

// Given: images, cotangent.
void run_to_largest(const Frame &frame) {
  with_windows(frame, [&](const Windows &w, auto type, auto size) {
    using T = decltype(type);
    constexpr int64_t known = decltype(size)::value;
    const auto run = frame.is("shared") ? to_largest<known, true, T> : to_largest<known, false, T>;
    run(w, frame.from<T>(0), frame.from<T>(1), frame.to<T>(0));
  });
}

}  // namespace

FUNCTION(jaxsnn_sum, run_sum)
FUNCTION(jaxsnn_mix, run_mix)
FUNCTION(jaxsnn_average, run_average)
FUNCTION(jaxsnn_spread, run_spread)
FUNCTION(jaxsnn_largest, run_largest)
FUNCTION(jaxsnn_to_largest, run_to_largest)
