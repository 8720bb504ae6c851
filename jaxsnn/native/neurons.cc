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

  int64_t length() const { return std::max(kBlock / channels, int64_t{1}) * channels; }
  int64_t blocks() const { return (neurons + length() - 1) / length(); }
};

// The constants of each neuron of a block. A spike leaves decay (share u - before) - behind.
struct Constants {
  std::vector<float> decay, theta, level, before, behind;
  float share;

  Constants(const Call &call, const float *decays, const float *thetas)
      : share(call.reset == kHard ? 0.0f : 1.0f) {
    for (int64_t i = 0; i < call.length(); ++i) {
      const float d = decays[i % call.channels], t = thetas[i % call.channels];
      decay.push_back(d);
      theta.push_back(t);
      // A potential above the level fires.
      level.push_back(call.strict ? t : std::nextafter(t, -INFINITY));
      before.push_back(call.reset == kSoft ? t : 0.0f);
      behind.push_back(call.reset == kSoftUndecayed ? t : 0.0f);
    }
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
    std::vector<float> scales(count, 1.0f), peaks(count, given.peak);
    for (int64_t i = 0; i < count; ++i) {
      const float unit = given.normalized ? 1.0f / threshold[i] : 1.0f;
      scales[i] = unit * given.per_width;
      peaks[i] *= unit;
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

Call call_of(int64_t size, int64_t steps, int64_t neurons, int64_t channels, int64_t threads,
             int64_t reset, bool strict) {
  return Call{size / (steps * neurons), steps, neurons, channels, threads, reset, strict};
}

ffi::Error run_forward(ffi::AnyBuffer start, ffi::AnyBuffer current, ffi::AnyBuffer decay,
                       ffi::AnyBuffer theta, ffi::Result<ffi::AnyBuffer> kept,
                       ffi::Result<ffi::AnyBuffer> spikes, int64_t steps, int64_t neurons,
                       int64_t channels, int64_t threads, int64_t reset, bool strict, bool constant,
                       bool at_rest, bool early) {
  return guarded("neurons", [&] {
    const auto call = call_of(kept->element_count(), steps, neurons, channels, threads, reset, strict);
    with_type(current.element_type(), [&](auto in) {
      with_type(kept->element_type(), [&](auto out) {
        using In = decltype(in);
        using Kept = decltype(out);
        forward<In, Kept>(call, constant, early, at_rest ? nullptr : data<float>(start), data<In>(current),
                          data<float>(decay), data<float>(theta), data<Kept>(kept),
                          data<Kept>(spikes), nullptr);
      });
    });
  });
}

ffi::Error run_to_last(ffi::AnyBuffer start, ffi::AnyBuffer current, ffi::AnyBuffer decay,
                       ffi::AnyBuffer theta, ffi::Result<ffi::AnyBuffer> last, int64_t steps,
                       int64_t neurons, int64_t channels, int64_t threads, int64_t reset, bool strict,
                       bool constant, bool at_rest) {
  return guarded("neurons", [&] {
    const auto call =
        call_of(last->element_count() * steps, steps, neurons, channels, threads, reset, strict);
    with_type(current.element_type(), [&](auto in) {
      using In = decltype(in);
      forward<In, float>(call, constant, false, at_rest ? nullptr : data<float>(start), data<In>(current),
                         data<float>(decay), data<float>(theta), nullptr, nullptr,
                         data<float>(last));
    });
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

ffi::Error run_backward(ffi::AnyBuffer kept, ffi::AnyBuffer direct, ffi::AnyBuffer spikes,
                        ffi::AnyBuffer slopes, ffi::AnyBuffer decay, ffi::AnyBuffer theta,
                        ffi::Result<ffi::AnyBuffer> derivative, ffi::Result<ffi::AnyBuffer> first,
                        int64_t steps, int64_t neurons, int64_t channels, int64_t threads,
                        int64_t reset, bool strict, bool early, bool detached, bool with_direct,
                        bool with_spikes, bool with_slopes, bool with_first, int64_t curve,
                        float width, float peak, bool normalized) {
  return guarded("neurons", [&] {
    const auto call = call_of(kept.element_count(), steps, neurons, channels, threads, reset, strict);
    with_type(kept.element_type(), [&](auto out) {
      using Kept = decltype(out);
      const auto if_given = [](bool given, const ffi::AnyBuffer &buffer) {
        return given ? data<Kept>(buffer) : nullptr;
      };
      const Cotangents<Kept> given{data<Kept>(kept), if_given(with_direct, direct),
                                   if_given(with_spikes, spikes), if_given(with_slopes, slopes),
                                   early, detached, normalized, peak, 1.0f / width};
      with_curve(curve, [&](auto known) {
        backward<decltype(known)::value, Kept>(call, given, data<float>(decay), data<float>(theta),
                                               data<Kept>(derivative),
                                               with_first ? data<float>(first) : nullptr);
      });
    });
  });
}

// Add the numbers that each function is told to the arrays that it takes and gives.
template <typename Arrays>
auto told(Arrays &&arrays) {
  return std::forward<Arrays>(arrays)
      .template Attr<int64_t>("steps")
      .template Attr<int64_t>("neurons")
      .template Attr<int64_t>("channels")
      .template Attr<int64_t>("threads")
      .template Attr<int64_t>("reset")
      .template Attr<bool>("strict");
}

using Buffer = ffi::AnyBuffer;

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxsnn_potentials, run_forward,
    told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Ret<Buffer>())
        .Attr<bool>("constant")
        .Attr<bool>("at_rest")
        .Attr<bool>("early"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxsnn_last_potential, run_to_last,
    told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>())
        .Attr<bool>("constant")
        .Attr<bool>("at_rest"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsnn_derivatives, run_backward,
                              told(ffi::Ffi::Bind()
                                       .Arg<Buffer>()
                                       .Arg<Buffer>()
                                       .Arg<Buffer>()
                                       .Arg<Buffer>()
                                       .Arg<Buffer>()
                                       .Arg<Buffer>()
                                       .Ret<Buffer>()
                                       .Ret<Buffer>())
                                  .Attr<bool>("early")
                                  .Attr<bool>("detached")
                                  .Attr<bool>("with_direct")
                                  .Attr<bool>("with_spikes")
                                  .Attr<bool>("with_slopes")
                                  .Attr<bool>("with_first")
                                  .Attr<int64_t>("curve")
                                  .Attr<float>("width")
                                  .Attr<float>("peak")
                                  .Attr<bool>("normalized"));
