// LIF neurons over all time steps as functions that XLA calls: potentials forward, derivatives back.
//
// Layout: [lanes, T, n], where n neurons end in channels; constants [lanes, C] with C = 1 or the
// channels. What is kept of a potential u is u in float32, u - theta in bfloat16. All steps of a
// block of neurons are computed at a time, so that each array is read or written once, and what a
// step leaves stays in the first-level cache. Sums are float32.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kBlock = 1024;  // neurons

using bfloat16 = uint16_t;  // its bits; a struct would keep the compiler from vectors

inline float wide(float x) { return x; }
inline float wide(bfloat16 x) {
  const uint32_t bits = uint32_t{x} << 16;
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

template <typename T>
inline T rounded(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // ties to even
    return static_cast<bfloat16>(x == x ? nearest : 0x7FC0);
  }
}

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

// u[t] = rest(u[t-1]) + x[t]. Spikes are those of u[t], or of u[t-1] with `early`.
template <typename In, typename Kept>
void forward(const Call &call, bool constant, bool early, const float *start, const In *current,
             const float *decay, const float *theta, Kept *kept, Kept *spikes, float *last) {
  each_block(call, decay, theta, [&](int64_t lane, int64_t begin, int64_t count, const Constants &known) {
    float *u = last + lane * call.neurons + begin;
    std::copy_n(start + lane * call.neurons + begin, count, u);
    const float share = known.share;
    const Kept one = rounded<Kept>(1.0f);
    for (int64_t t = 0; t < call.steps; ++t) {
      const int64_t now = (lane * call.steps + t) * call.neurons + begin;
      const In *x = current + (constant ? lane * call.neurons + begin : now);
      Kept *k = kept + now, *s = spikes + now;
      const float *d = known.decay.data(), *h = known.theta.data(), *level = known.level.data();
      const float *before = known.before.data(), *behind = known.behind.data();
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const bool fired = u[i] > level[i];
        const float left = d[i] * (fired ? share * u[i] - before[i] : u[i]) - (fired ? behind[i] : 0.0f);
        const float after = left + wide(x[i]);
        const float tested = early ? u[i] : after;
        u[i] = after;
        k[i] = rounded<Kept>(std::is_same_v<Kept, float> ? after : after - h[i]);
        s[i] = tested > level[i] ? one : Kept{0};
      }
    }
  });
}

// What is known of the derivatives of a call.
template <typename Kept>
struct Cotangents {
  const Kept *kept, *direct, *spikes, *slopes;  // each but the first may be missing
  bool early, detached;
};

// d[t] = direct[t] + z'(u[t]) spikes[t] + rest'(u[t]) d[t+1], with z' the surrogate's slope;
// spikes[t+1] with `early`. A reset multiplies by rest' = decay (1 or share) - z' (by_u u + by).
template <typename Kept>
void backward(const Call &call, const Cotangents<Kept> &given, const float *decay,
              const float *theta, Kept *derivative, float *first) {
  each_block(call, decay, theta, [&](int64_t lane, int64_t begin, int64_t count, const Constants &known) {
    float *d = first + lane * call.neurons + begin;
    std::fill_n(d, count, 0.0f);
    constexpr bool whole = std::is_same_v<Kept, float>;
    const float share = known.share, zero = call.strict ? 0.0f : -FLT_MIN;
    const float reset = given.detached ? 0.0f : 1.0f, by_u = call.reset == kHard ? reset : 0.0f;
    const float *level = known.level.data(), *decays = known.decay.data();
    const float *threshold = known.theta.data();
    const float *before = known.before.data(), *behind = known.behind.data();
    const std::vector<Kept> none(count, Kept{0});
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
        const float x = wide(k[i]), u = whole ? x : x + threshold[i], z = wide(slope[i]);
        const float left = x > (whole ? level[i] : zero) ? share * decays[i] : decays[i];
        const float by = reset * (decays[i] * before[i] + behind[i]) + by_u * decays[i] * u;
        d[i] = wide(c[i]) + z * wide(g[i]) + (left - z * by) * d[i];
        out[i] = rounded<Kept>(d[i]);
      }
    }
  });
}

template <typename T>
const T *data(const ffi::AnyBuffer &buffer) {
  return static_cast<const T *>(buffer.untyped_data());
}

template <typename T>
T *data(ffi::Result<ffi::AnyBuffer> &buffer) {
  return static_cast<T *>(buffer->untyped_data());
}

// Call a function with a value of the type that a buffer holds.
template <typename Body>
void with_type(ffi::DataType found, const Body &body) {
  if (found == ffi::DataType::F32) body(float{});
  else if (found == ffi::DataType::BF16) body(bfloat16{});
  else throw std::invalid_argument("only float32 and bfloat16 are computed");
}

template <typename Body>
ffi::Error guarded(const Body &body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception &error) {
    return ffi::Error::Internal(std::string("neurons: ") + error.what());
  }
}

Call call_of(int64_t size, int64_t steps, int64_t neurons, int64_t channels, int64_t threads,
             int64_t reset, bool strict) {
  return Call{size / (steps * neurons), steps, neurons, channels, threads, reset, strict};
}

ffi::Error run_forward(ffi::AnyBuffer start, ffi::AnyBuffer current, ffi::AnyBuffer decay,
                       ffi::AnyBuffer theta, ffi::Result<ffi::AnyBuffer> kept,
                       ffi::Result<ffi::AnyBuffer> spikes, ffi::Result<ffi::AnyBuffer> last,
                       int64_t steps, int64_t neurons, int64_t channels, int64_t threads,
                       int64_t reset, bool strict, bool constant, bool early) {
  return guarded([&] {
    const auto call = call_of(kept->element_count(), steps, neurons, channels, threads, reset, strict);
    with_type(current.element_type(), [&](auto in) {
      with_type(kept->element_type(), [&](auto out) {
        using In = decltype(in);
        using Kept = decltype(out);
        forward<In, Kept>(call, constant, early, data<float>(start), data<In>(current),
                          data<float>(decay), data<float>(theta), data<Kept>(kept),
                          data<Kept>(spikes), data<float>(last));
      });
    });
  });
}

ffi::Error run_backward(ffi::AnyBuffer kept, ffi::AnyBuffer direct, ffi::AnyBuffer spikes,
                        ffi::AnyBuffer slopes, ffi::AnyBuffer decay, ffi::AnyBuffer theta,
                        ffi::Result<ffi::AnyBuffer> derivative, ffi::Result<ffi::AnyBuffer> first,
                        int64_t steps, int64_t neurons, int64_t channels, int64_t threads,
                        int64_t reset, bool strict, bool early, bool detached, bool with_direct,
                        bool with_spikes, bool with_slopes) {
  return guarded([&] {
    const auto call = call_of(kept.element_count(), steps, neurons, channels, threads, reset, strict);
    with_type(kept.element_type(), [&](auto out) {
      using Kept = decltype(out);
      const auto if_given = [](bool given, const ffi::AnyBuffer &buffer) {
        return given ? data<Kept>(buffer) : nullptr;
      };
      const Cotangents<Kept> given{data<Kept>(kept), if_given(with_direct, direct),
                                   if_given(with_spikes, spikes), if_given(with_slopes, slopes),
                                   early, detached};
      backward<Kept>(call, given, data<float>(decay), data<float>(theta), data<Kept>(derivative),
                     data<float>(first));
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsnn_potentials, run_forward,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("steps")
                                  .Attr<int64_t>("neurons")
                                  .Attr<int64_t>("channels")
                                  .Attr<int64_t>("threads")
                                  .Attr<int64_t>("reset")
                                  .Attr<bool>("strict")
                                  .Attr<bool>("constant")
                                  .Attr<bool>("early"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsnn_derivatives, run_backward,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("steps")
                                  .Attr<int64_t>("neurons")
                                  .Attr<int64_t>("channels")
                                  .Attr<int64_t>("threads")
                                  .Attr<int64_t>("reset")
                                  .Attr<bool>("strict")
                                  .Attr<bool>("early")
                                  .Attr<bool>("detached")
                                  .Attr<bool>("with_direct")
                                  .Attr<bool>("with_spikes")
                                  .Attr<bool>("with_slopes"));
