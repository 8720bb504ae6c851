// What our functions for a CPU have in common: numbers of 16 bits, and the buffers of a call.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

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
ffi::Error guarded(const char *name, const Body &body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception &error) {
    return ffi::Error::Internal(std::string(name) + ": " + error.what());
  }
}

}  // namespace
