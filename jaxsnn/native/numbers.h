// Numbers of 16 bits: read as float32, and rounded from it.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

}  // namespace
