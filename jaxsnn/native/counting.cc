// The highest of many numbers, an exact count of them; ties go to the lower index.
//
// Layout: numbers [lanes, n], counts [lanes], marks [lanes, n]. Floats become unsigned integers of
// the same order. The last one that counts is found digit by digit, each by a histogram of those
// that have the digits before.

#include <algorithm>
#include <vector>

namespace {

constexpr int kShifts[] = {21, 10, 0}, kWidths[] = {11, 11, 10};  // of the digits, in bits

// A number's place in the order; both zeros are equal.
inline uint32_t ordered(float x) {
  uint32_t bits;
  const float value = x == 0.0f ? 0.0f : x;
  std::memcpy(&bits, &value, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

void mark(const float *numbers, int64_t size, int64_t count, bool *marks) {
  std::vector<uint32_t> keys(size);
  for (int64_t i = 0; i < size; ++i) keys[i] = ordered(numbers[i]);
  uint32_t last = 0, known = 0;
  int64_t left = count;  // of those that have the digits known so far
  for (int step = 0; step < 3; ++step) {
    const uint32_t digit = (1u << kWidths[step]) - 1;
    std::vector<int64_t> histogram(digit + 1, 0);
    for (int64_t i = 0; i < size; ++i)
      if ((keys[i] & known) == last) ++histogram[keys[i] >> kShifts[step] & digit];
    uint32_t at = digit;
    while (at > 0 && histogram[at] < left) left -= histogram[at--];
    last |= at << kShifts[step];
    known |= digit << kShifts[step];
  }
  for (int64_t i = 0; i < size; ++i) {
    const bool is_last = keys[i] == last && left > 0;
    left -= is_last;
    marks[i] = keys[i] > last || is_last;
  }
}

// Given: numbers, counts.
void run_top_count(const Frame &frame) {
  const int64_t lanes = size_of(frame.given(1)), size = size_of(frame.given(0)) / lanes;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t count = frame.from<int32_t>(1)[lane];
    bool *marks = frame.to<bool>(0) + lane * size;
    if (count <= 0 || count >= size) std::fill_n(marks, size, count > 0);
    else mark(frame.from<float>(0) + lane * size, size, count, marks);
  }
}

}  // namespace

FUNCTION(jaxsnn_top_count, run_top_count)
