// The scale of a grid of whole numbers, searched as `jaxsnn.compress.fitting.search` does.
//
// Layout: magnitudes [lanes, n, C], largest levels and scales [lanes, C]. Each group of n numbers
// is laid out by itself and read once for each scale that is tried, from the cache. Sums are
// float32 in blocks, float64 across them: the same for any number of threads.

#include <algorithm>
#include <vector>

namespace {

constexpr int64_t kBlock = 2048;  // numbers that are summed up in float32
// As in fitting.py: starts of small groups and of others, all errors for the starts of those
// between, rounds of looking closer, scales in each, and what errors may differ by and be equal.
constexpr int64_t kSmall = 64, kFewest = 16, kMost = 2048, kWork = 1 << 16, kRounds = 3, kAround = 8;
constexpr double kEqual = 1e-4, kRounding = 10 * 1.1920929e-07;

struct Group {
  const float *magnitudes;
  int64_t size;
  float top;
};

struct Sums {
  double rest = 0, by_level = 0, levels = 0;  // of r r, r q and q q, with r = v - alpha q
};

Sums sums_at(const Group &group, float alpha) {
  const float inverse = alpha != 0.0f ? 1.0f / alpha : 0.0f, top = group.top;
  Sums found;
  for (int64_t begin = 0; begin < group.size; begin += kBlock) {
    const float *v = group.magnitudes + begin;
    const int64_t count = std::min(kBlock, group.size - begin);
    float rest = 0, by_level = 0, levels = 0;
#pragma omp simd reduction(+ : rest, by_level, levels)
    for (int64_t i = 0; i < count; ++i) {
      const float q = std::min(std::nearbyint(v[i] * inverse), top), r = v[i] - alpha * q;
      rest += r * r;
      by_level += r * q;
      levels += q * q;
    }
    found.rest += rest;
    found.by_level += by_level;
    found.levels += levels;
  }
  return found;
}

// The best scale for the levels that are nearest at another one; 0 where all are 0.
float refined(const Group &group, float alpha) {
  double products = 0, squares = 0;
  for (int64_t begin = 0; begin < group.size; begin += kBlock) {
    const float *v = group.magnitudes + begin;
    const int64_t count = std::min(kBlock, group.size - begin);
    float product = 0, square = 0;
#pragma omp simd reduction(+ : product, square)
    for (int64_t i = 0; i < count; ++i) {
      const float q = std::min(std::nearbyint(v[i] / alpha), group.top);
      product += v[i] * q;
      square += q * q;
    }
    products += product;
    squares += square;
  }
  return squares > 0 ? static_cast<float>(products / squares) : 0.0f;
}

int64_t power_of_two(int64_t most) {
  int64_t found = 1;
  while (2 * found <= most) found *= 2;
  return found;
}

// How a leaf of some size is searched.
struct Search {
  int64_t starts, around, threads;
  bool apart;  // each thread has groups of its own, or scales of the only one

  Search(const Frame &frame, int64_t size, int64_t groups) {
    const int64_t each = size / groups;
    starts = each <= kSmall ? kMost : std::max(power_of_two(kWork / each), kFewest);
    around = std::max(kAround, std::min(power_of_two(kWork / size), starts));
    threads = frame.threads(starts * size / 4);
    apart = groups > 1;
  }

  std::vector<double> errors(const Group &group, const std::vector<float> &alphas) const {
    const int64_t count = static_cast<int64_t>(alphas.size());
    std::vector<double> found(count);
#pragma omp parallel for num_threads(threads) if (threads > 1 && !apart)
    for (int64_t i = 0; i < count; ++i) {
      const Sums sums = sums_at(group, alphas[i]);
      const bool refines = starts != kFewest && sums.levels > 0;
      found[i] = sums.rest - (refines ? sums.by_level * sums.by_level / sums.levels : 0.0);
    }
    return found;
  }

  float best(const Group &group) const {
    double sum = 0, squares = 0;
    int64_t counted = 0;
    float high = 0;
    for (int64_t i = 0; i < group.size; ++i) {
      const float v = group.magnitudes[i];
      if (!std::isfinite(v)) return NAN;
      high = std::max(high, v);
      sum += v;
      squares += double{v} * v;
      counted += v > 0;
    }
    if (high == 0) return 0.0f;
    const double low = sum / counted / group.top, middle = double{high} / group.top;
    const double rounding = kRounding * kRounding * squares;
    const double ratio = std::log(high / low), half = starts / 2, step = ratio / (half - 1);
    std::vector<float> alphas{static_cast<float>(middle)};
    for (int64_t i = 1; i < half; ++i) alphas.push_back(middle / (0.5 + i / (half - 1)));
    for (int64_t i = 0; i < half; ++i) alphas.push_back(low * std::exp(step * i));
    double least = INFINITY;
    float alpha = alphas[0];
    const auto look = [&](double equal) {
      const auto found = errors(group, alphas);
      for (size_t i = 0; i < found.size(); ++i)
        if (found[i] < (1 - equal) * least - rounding) {
          least = found[i];
          alpha = alphas[i];
        }
    };
    look(kEqual);
    double width = step;
    for (int64_t round = 0; round < kRounds; ++round, width *= 2.0 / (around - 1)) {
      alphas.clear();
      for (int64_t i = 0; i < around; ++i)
        alphas.push_back(alpha * std::exp(width * (2.0 * i / (around - 1) - 1)));
      look(0.0);
    }
    return alpha;
  }
};

// Given: magnitudes, largest levels.
void run_search(const Frame &frame) {
  const int64_t rows = frame.whole("rows"), channels = frame.whole("channels");
  const int64_t sweeps = frame.whole("sweeps"), size = rows * channels;
  const int64_t groups = size_of(frame.given(0)) / rows;
  const Search search(frame, size, channels);
  const float *given = frame.from<float>(0), *tops = frame.from<float>(1);
  float *scales = frame.to<float>(0);
#pragma omp parallel for num_threads(search.threads) if (search.threads > 1 && search.apart)
  for (int64_t group = 0; group < groups; ++group) {
    const float *first = given + group / channels * size + group % channels;
    std::vector<float> laid_out(rows);
    for (int64_t i = 0; i < rows; ++i) laid_out[i] = first[i * channels];
    const Group found{laid_out.data(), rows, tops[group]};
    float alpha = search.best(found);
    for (int64_t sweep = 0; sweep < sweeps && alpha > 0; ++sweep) alpha = refined(found, alpha);
    scales[group] = alpha;
  }
}

}  // namespace

FUNCTION(jaxsnn_search, run_search)
