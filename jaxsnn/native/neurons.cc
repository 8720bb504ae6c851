// LIF neurons over all time steps as functions that XLA calls: potentials forward, derivatives back.
//
// Layout: [lanes, T, n], where n neurons end in channels; constants [lanes, C] with C = 1 or the
// channels. What is kept of a potential u is u in float32, u - theta in bfloat16. All steps of a
// block of neurons are computed at a time, so that each array is read or written once, and what a
// step leaves stays in the first-level cache. Sums are float32.

#include <algorithm>
#include <cfloat>
#include <vector>

namespace {

constexpr int64_t kBlock = 1024;  // neurons

enum Reset : int64_t { kHard, kSoft, kSoftUndecayed };

// What is known of a call beside its arrays.
struct Call {
  int64_t lanes, steps, neurons, channels, threads, reset;
  bool strict;

  int64_t length() const {
    return std::max(std::min(kBlock, neurons) / channels, int64_t{1}) * channels;
  }
  int64_t blocks() const { return (neurons + length() - 1) / length(); }
};

// A row of numbers, one for each channel, again and again.
std::vector<float> laid_out(const std::vector<float> &row, int64_t length) {
  std::vector<float> found(length);
  const auto size = static_cast<int64_t>(row.size());
  for (int64_t at = 0; at < length; at += size) std::copy_n(row.data(), size, found.data() + at);
  return found;
}

// The constants of each neuron of a block. A spike leaves decay (share u - before) - behind.
struct Constants {
  std::vector<float> decay, theta, level, before, behind;
  float share;

  Constants(const Call &call, const float *decays, const float *thetas)
      : share(call.reset == kHard ? 0.0f : 1.0f) {
    const auto each = [&](const auto &of) {
      std::vector<float> row(call.channels);
      for (int64_t i = 0; i < call.channels; ++i) row[i] = of(decays[i], thetas[i]);
      return laid_out(row, call.length());
    };
    decay = each([](float d, float) { return d; });
    theta = each([](float, float t) { return t; });
    // A potential above the level fires.
    level = each([&](float, float t) { return call.strict ? t : std::nextafter(t, -INFINITY); });
    before = each([&](float, float t) { return call.reset == kSoft ? t : 0.0f; });
    behind = each([&](float, float t) { return call.reset == kSoftUndecayed ? t : 0.0f; });
  }
};

// Run a function of (lane, first neuron, number of neurons, constants) for each block.
template <typename Body>
void each_block(const Call &call, const float *decay, const float *theta, const Body &body) {
  for (int64_t lane = 0; lane < call.lanes; ++lane) {
    const Constants known(call, decay + lane * call.channels, theta + lane * call.channels);
#pragma omp parallel for num_threads(call.threads) if (call.threads > 1)
    for (int64_t block = 0; block < call.blocks(); ++block) {
      const int64_t begin = block * call.length();
      body(lane, begin, std::min(call.length(), call.neurons - begin), known);
    }
  }
}

// u[t] = rest(u[t-1]) + x[t], from 0 without a start. Spikes are those of u[t], or of u[t-1] with `early`. Either all steps
// are stored, or with `last` nothing but the last potential.
template <typename In, typename Kept>
void forward(const Call &call, bool constant, bool early, const float *start, const In *current,
             const float *decay, const float *theta, Kept *kept, Kept *spikes, float *last) {
  each_block(call, decay, theta, [&](int64_t lane, int64_t begin, int64_t count, const Constants &known) {
    const int64_t here = lane * call.neurons + begin;
    std::vector<float> potentials(count, 0.0f);
    float *u = potentials.data();
    if (start) std::copy_n(start + here, count, u);
    const float share = known.share;
    const Kept one = rounded<Kept>(1.0f);
    for (int64_t t = 0; t < call.steps; ++t) {
      const int64_t now = (lane * call.steps + t) * call.neurons + begin;
      const In *x = current + (constant ? here : now);
      const float *d = known.decay.data(), *h = known.theta.data(), *level = known.level.data();
      const float *before = known.before.data(), *behind = known.behind.data();
      const auto after = [=](int64_t i) {
        const bool fired = u[i] > level[i];
        return d[i] * (fired ? share * u[i] - before[i] : u[i]) - (fired ? behind[i] : 0.0f) + wide(x[i]);
      };
      if (last) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) u[i] = after(i);
        continue;
      }
      Kept *k = kept + now, *s = spikes + now;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float next = after(i), tested = early ? u[i] : next;
        u[i] = next;
        k[i] = rounded<Kept>(std::is_same_v<Kept, float> ? next : next - h[i]);
        s[i] = tested > level[i] ? one : Kept{0};
      }
    }
    if (last) std::copy_n(u, count, last + here);
  });
}

// The slope of a spike by its potential, as the surrogate has it: a known curve, or as given.
enum Curve : int64_t { kGiven, kOne, kRectangle, kTriangle, kLorentzian, kHyperbola };

template <Curve curve>
inline float height(float x) {
  const float distance = std::fabs(x);
  if constexpr (curve == kRectangle) return distance < 0.5f ? 1.0f : 0.0f;
  if constexpr (curve == kTriangle) return std::max(0.0f, 1.0f - distance);
  if constexpr (curve == kLorentzian) return 1.0f / (1.0f + x * x);
  if constexpr (curve == kHyperbola) return 1.0f / ((1.0f + distance) * (1.0f + distance));
  return 1.0f;
}

// What is known of the derivatives of a call. Slopes are `peak` times the curve of `u - theta`, or
// of `u / theta - 1`, in widths; the latter are divided by theta.
template <typename Kept>
struct Cotangents {
  const Kept *kept, *direct, *spikes, *slopes;  // each but the first may be missing
  bool early, detached, normalized;
  float peak, per_width;
};

// d[t] = direct[t] + z'(u[t]) spikes[t] + rest'(u[t]) d[t+1], with z' the surrogate's slope;
// spikes[t+1] with `early`. With `first`, d[0] is also given in float32. A reset multiplies by rest' = decay (1 or share) - z' (by_u u + by).
template <Curve curve, typename Kept>
void backward(const Call &call, const Cotangents<Kept> &given, const float *decay,
              const float *theta, Kept *derivative, float *first) {
  each_block(call, decay, theta, [&](int64_t lane, int64_t begin, int64_t count, const Constants &known) {
    std::vector<float> derivatives(count, 0.0f);
    float *d = derivatives.data();
    constexpr bool whole = std::is_same_v<Kept, float>;
    const float share = known.share, zero = call.strict ? 0.0f : -FLT_MIN;
    const float reset = given.detached ? 0.0f : 1.0f, by_u = call.reset == kHard ? reset : 0.0f;
    const float *level = known.level.data(), *decays = known.decay.data();
    const float *threshold = known.theta.data();
    const float *before = known.before.data(), *behind = known.behind.data();
    const std::vector<Kept> none(count, Kept{0});
    std::vector<float> scales(count, given.per_width), peaks(count, given.peak);
    for (int64_t i = 0; given.normalized && i < count; ++i) {
      scales[i] /= threshold[i];
      peaks[i] /= threshold[i];
    }
    const float *scale = scales.data(), *peak = peaks.data();
    for (int64_t t = call.steps; t-- > 0;) {
      const int64_t now = (lane * call.steps + t) * call.neurons + begin;
      const int64_t then = given.early ? now + call.neurons : now;
      const bool heard = given.spikes && !(given.early && t == call.steps - 1);
      const Kept *k = given.kept + now, *c = given.direct ? given.direct + now : none.data();
      const Kept *g = heard ? given.spikes + then : none.data();
      const Kept *slope = given.slopes ? given.slopes + now : none.data();
      Kept *out = derivative + now;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float x = wide(k[i]), u = whole ? x : x + threshold[i];
        const float z = curve == kGiven ? wide(slope[i])
                                        : peak[i] * height<curve>((u - threshold[i]) * scale[i]);
        const float left = x > (whole ? level[i] : zero) ? share * decays[i] : decays[i];
        const float by = reset * (decays[i] * before[i] + behind[i]) + by_u * decays[i] * u;
        d[i] = wide(c[i]) + z * wide(g[i]) + (left - z * by) * d[i];
        out[i] = rounded<Kept>(d[i]);
      }
    }
    if (first) std::copy_n(d, count, first + lane * call.neurons + begin);
  });
}

Call call_of(const Frame &frame, int64_t size) {
  const int64_t steps = frame.whole("steps"), neurons = frame.whole("neurons");
  return Call{size / (steps * neurons), steps, neurons, frame.whole("channels"),
              frame.threads(steps * neurons), frame.whole("reset"), frame.is("strict")};
}

// Given: start, current, decay, theta.
const float *start_of(const Frame &frame) {
  return frame.is("at_rest") ? nullptr : frame.from<float>(0);
}

void run_forward(const Frame &frame) {
  const auto call = call_of(frame, size_of(frame.result(0)));
  with_type(frame.given(1), [&](auto in) {
    with_type(frame.result(0), [&](auto out) {
      using In = decltype(in);
      using Kept = decltype(out);
      forward<In, Kept>(call, frame.is("constant"), frame.is("early"), start_of(frame),
                        frame.from<In>(1), frame.from<float>(2), frame.from<float>(3),
                        frame.to<Kept>(0), frame.to<Kept>(1), nullptr);
    });
  });
}

void run_to_last(const Frame &frame) {
  const auto call = call_of(frame, size_of(frame.result(0)) * frame.whole("steps"));
  with_type(frame.given(1), [&](auto in) {
    using In = decltype(in);
    forward<In, float>(call, frame.is("constant"), false, start_of(frame), frame.from<In>(1),
                       frame.from<float>(2), frame.from<float>(3), nullptr, nullptr,
                       frame.to<float>(0));
  });
}

// Call a function with a curve that is known when it is compiled.
template <typename Body>
void with_curve(int64_t curve, const Body &body) {
  switch (curve) {
    case kGiven: return body(std::integral_constant<Curve, kGiven>());
    case kOne: return body(std::integral_constant<Curve, kOne>());
    case kRectangle: return body(std::integral_constant<Curve, kRectangle>());
    case kTriangle: return body(std::integral_constant<Curve, kTriangle>());
    case kLorentzian: return body(std::integral_constant<Curve, kLorentzian>());
    case kHyperbola: return body(std::integral_constant<Curve, kHyperbola>());
    default: throw std::invalid_argument("this curve is unknown");
  }
}

// Given: kept, direct, spikes, slopes, decay, theta.
void run_backward(const Frame &frame) {
  const auto call = call_of(frame, size_of(frame.given(0)));
  with_type(frame.given(0), [&](auto out) {
    using Kept = decltype(out);
    const auto if_given = [&](const char *name, int64_t place) {
      return frame.is(name) ? frame.from<Kept>(place) : nullptr;
    };
    const Cotangents<Kept> given{frame.from<Kept>(0), if_given("with_direct", 1),
                                 if_given("with_spikes", 2), if_given("with_slopes", 3),
                                 frame.is("early"), frame.is("detached"), frame.is("normalized"),
                                 frame.real("peak"), 1.0f / frame.real("width")};
    with_curve(frame.whole("curve"), [&](auto known) {
      backward<decltype(known)::value, Kept>(
          call, given, frame.from<float>(4), frame.from<float>(5), frame.to<Kept>(0),
          frame.is("with_first") ? frame.to<float>(1) : nullptr);
    });
  });
}

}  // namespace

FUNCTION(jaxsnn_potentials, run_forward)
FUNCTION(jaxsnn_last_potential, run_to_last)
FUNCTION(jaxsnn_derivatives, run_backward)
