// The convolutions of oneDNN as functions that XLA calls: forward, and both gradients.
//
// Layout: images [N, H, W, C], kernels [kh, kw, C / groups, O], outputs [N, H', W', O]; float32 or
// bfloat16 in, float32 or bfloat16 out, sums in float32. A primitive is made once for each shape
// and shared by all threads. Its scratch memory and its reordered kernel belong to the calling
// thread, so that calls on several devices never meet.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

using dnnl::memory;

namespace {

enum Direction : int64_t { kForward, kToImages, kToKernel };

constexpr size_t kMostPrimitives = 1024;       // of a process; beyond it all are made anew
constexpr size_t kMostPatches = size_t{2} << 20;  // bytes of patches at a time
constexpr size_t kMostKept = size_t{64} << 20;  // bytes of scratch memory that a thread keeps

dnnl::engine &cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// A block of memory that grows to what is asked for.
class Block {
 public:
  ~Block() { std::free(data_); }
  void *at_least(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }
  void shrink() {
    if (size_ <= kMostKept) return;
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  void *data_ = nullptr;
  size_t size_ = 0;
};

struct Convolution {
  dnnl::primitive run, reorder;
  memory::desc images, kernel, packed, bias, outputs, scratch;
  bool packs = false;  // the kernel is laid out anew for the primitive
};

struct Problem {
  std::vector<int64_t> images, kernel, outputs;  // shapes as XLA has them
  memory::data_type of_images, of_kernel, of_outputs;
  int64_t stride, top, bottom, left, right, groups;
  bool biased;  // a float32 is added to each output channel, or has a gradient

  std::vector<int64_t> key(int64_t direction, int64_t threads) const {
    std::vector<int64_t> all{direction, threads, int64_t(of_images), int64_t(of_kernel),
                             int64_t(of_outputs), stride, top, bottom, left, right, groups, biased};
    for (const auto *shape : {&images, &kernel, &outputs})
      all.insert(all.end(), shape->begin(), shape->end());
    return all;
  }

  // Products, in passes over a number that take as long.
  int64_t work() const {
    const bool is_short = of_images == memory::data_type::bf16;
    const int64_t taps = kernel[0] * kernel[1] * kernel[2];
    return outputs[0] * outputs[1] * outputs[2] * outputs[3] * taps / (is_short ? 150 : 38);
  }
};

memory::desc kernel_layout(const Problem &p, memory::data_type type, bool any) {
  const int64_t h = p.kernel[0], w = p.kernel[1], c = p.kernel[2], o = p.kernel[3];
  const int64_t each = o / p.groups;
  if (p.groups == 1) {
    const memory::dims dims{o, c, h, w};
    if (any) return memory::desc(dims, type, memory::format_tag::any);
    return memory::desc(dims, type, memory::dims{1, o, w * c * o, c * o});
  }
  const memory::dims dims{p.groups, each, c, h, w};
  if (any) return memory::desc(dims, type, memory::format_tag::any);
  return memory::desc(dims, type, memory::dims{each, 1, o, w * c * o, c * o});
}

Convolution make(int64_t direction, const Problem &p) {
  const auto &x = p.images;
  const auto &y = p.outputs;
  const auto nhwc = memory::format_tag::nhwc;
  const memory::dims images{x[0], x[3], x[1], x[2]}, outputs{y[0], y[3], y[1], y[2]};
  const memory::dims strides{p.stride, p.stride}, before{p.top, p.left}, behind{p.bottom, p.right};
  const auto method = dnnl::algorithm::convolution_direct;

  Convolution c;
  c.images = memory::desc(images, p.of_images, nhwc);
  c.outputs = memory::desc(outputs, p.of_outputs, nhwc);
  c.kernel = kernel_layout(p, p.of_kernel, false);
  if (p.biased) c.bias = memory::desc({y[3]}, memory::data_type::f32, memory::format_tag::x);

  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  // A gradient asks for the forward pass that it belongs to; the narrower type of its arrays.
  const auto low = p.of_images == memory::data_type::bf16 || p.of_kernel == memory::data_type::bf16 ||
                           p.of_outputs == memory::data_type::bf16
                       ? memory::data_type::bf16
                       : memory::data_type::f32;
  const bool is_forward = direction == kForward;
  dnnl::convolution_forward::primitive_desc forward(
      cpu(), dnnl::prop_kind::forward_training, method,
      is_forward ? c.images : memory::desc(images, low, nhwc),
      kernel_layout(p, is_forward ? p.of_kernel : low, true), c.bias,
      is_forward ? c.outputs : memory::desc(outputs, low, nhwc), strides, before, behind,
      attributes);
  if (is_forward) {
    c.run = dnnl::convolution_forward(forward);
    c.packed = forward.weights_desc();
    c.scratch = forward.scratchpad_desc();
  } else if (direction == kToImages) {
    dnnl::convolution_backward_data::primitive_desc backward(
        cpu(), method, c.images, kernel_layout(p, p.of_kernel, true), c.outputs, strides, before,
        behind, forward, attributes);
    c.run = dnnl::convolution_backward_data(backward);
    c.packed = backward.weights_desc();
    c.scratch = backward.scratchpad_desc();
  } else {
    dnnl::convolution_backward_weights::primitive_desc backward(
        cpu(), method, c.images, kernel_layout(p, p.of_kernel, true), c.bias, c.outputs, strides,
        before, behind, forward, attributes);
    c.run = dnnl::convolution_backward_weights(backward);
    c.packed = backward.diff_weights_desc();
    c.scratch = backward.scratchpad_desc();
  }
  c.packs = c.packed != c.kernel;
  if (c.packs) {
    const auto &from = direction == kToKernel ? c.packed : c.kernel;
    const auto &to = direction == kToKernel ? c.kernel : c.packed;
    c.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(cpu(), from, cpu(), to));
  }
  return c;
}

// Return what a function makes, made once for each key.
template <typename Value, typename Make>
std::shared_ptr<const Value> once(const std::vector<int64_t> &key, const Make &make) {
  static std::mutex lock;
  static std::map<std::vector<int64_t>, std::shared_ptr<const Value>> known;
  std::lock_guard<std::mutex> guard(lock);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() >= kMostPrimitives) known.clear();
  return known[key] = std::make_shared<const Value>(make());
}

void execute(int64_t direction, const Convolution &c, void *first, void *second, void *bias,
             void *result) {
  static thread_local Block scratch_block, packed_block;
  dnnl::stream stream(cpu());
  void *images = direction == kToImages ? result : first;
  void *kernel = direction == kToKernel ? result : second;
  void *outputs = direction == kForward ? result : direction == kToImages ? first : second;
  const memory scratch(c.scratch, cpu(), scratch_block.at_least(c.scratch.get_size()));
  const memory x(c.images, cpu(), images), y(c.outputs, cpu(), outputs);
  memory plain(c.kernel, cpu(), kernel);
  memory packed = c.packs ? memory(c.packed, cpu(), packed_block.at_least(c.packed.get_size())) : plain;
  if (c.packs && direction != kToKernel) c.reorder.execute(stream, {{DNNL_ARG_FROM, plain}, {DNNL_ARG_TO, packed}});
  if (direction == kForward) {
    std::unordered_map<int, memory> arrays{{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, packed},
                                           {DNNL_ARG_DST, y}, {DNNL_ARG_SCRATCHPAD, scratch}};
    if (!c.bias.is_zero()) arrays.emplace(DNNL_ARG_BIAS, memory(c.bias, cpu(), bias));
    c.run.execute(stream, arrays);
  } else if (direction == kToImages) {
    c.run.execute(stream, {{DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_WEIGHTS, packed},
                           {DNNL_ARG_DIFF_SRC, x}, {DNNL_ARG_SCRATCHPAD, scratch}});
  } else {
    std::unordered_map<int, memory> arrays{{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, y},
                                           {DNNL_ARG_DIFF_WEIGHTS, packed}, {DNNL_ARG_SCRATCHPAD, scratch}};
    if (!c.bias.is_zero()) arrays.emplace(DNNL_ARG_DIFF_BIAS, memory(c.bias, cpu(), bias));
    c.run.execute(stream, arrays);
    if (c.packs) c.reorder.execute(stream, {{DNNL_ARG_FROM, packed}, {DNNL_ARG_TO, plain}});
  }
  stream.wait();
  scratch_block.shrink();
  packed_block.shrink();
}

// The threads that oneDNN may use, until the end of a call.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

std::vector<int64_t> shape(const Array &array) { return {array.dims, array.dims + array.rank}; }

memory::data_type type(const Array &array) {
  if (array.dtype == XLA_FFI_DataType_F32) return memory::data_type::f32;
  if (array.dtype == XLA_FFI_DataType_BF16) return memory::data_type::bf16;
  throw std::invalid_argument("only float32 and bfloat16 are convolved");
}

Problem problem_of(const Frame &frame, const Array &images, const Array &kernel,
                   const Array &outputs, bool biased) {
  const int64_t *borders = frame.wholes("borders");
  return Problem{shape(images), shape(kernel), shape(outputs), type(images), type(kernel),
                 type(outputs), frame.whole("stride"), borders[0], borders[1], borders[2],
                 borders[3], frame.whole("groups"), biased};
}

void run(Direction direction, const Frame &frame, const Problem &problem, void *bias) {
  const int64_t threads = frame.threads(problem.work());
  const Threads limit(static_cast<int>(threads));
  const auto known = once<Convolution>(problem.key(direction, threads), [&] { return make(direction, problem); });
  execute(direction, *known, frame.given(0).data, frame.given(1).data, bias, frame.result(0).data);
}

// The gradient of a kernel as a product: all patches of the images, transposed, with the cotangent.
// Over few pixels oneDNN's own takes up to seven times as long.
struct Product {
  dnnl::primitive run;
  memory::desc patches, cotangent, kernel, scratch;
};

Product make_product(int64_t rows, int64_t taps, int64_t outputs) {
  const auto type = memory::data_type::bf16;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops added;
  added.append_sum(1.0f);
  attributes.set_post_ops(added);
  Product p;
  p.patches = memory::desc({taps, rows}, type, memory::dims{1, taps});
  p.cotangent = memory::desc({rows, outputs}, type, memory::dims{outputs, 1});
  p.kernel = memory::desc({taps, outputs}, memory::data_type::f32, memory::dims{outputs, 1});
  const dnnl::matmul::primitive_desc product(cpu(), p.patches, p.cotangent, p.kernel, attributes);
  p.run = dnnl::matmul(product);
  p.scratch = product.scratchpad_desc();
  return p;
}

// The patches of some images [H, W, C], one row [kh, kw, C] for each pixel of an output [H', W'].
template <typename T>
void gather(const Problem &p, const T *images, int64_t samples, int64_t threads, T *patches) {
  const int64_t height = p.images[1], width = p.images[2], channels = p.images[3];
  const int64_t down = p.kernel[0], right = p.kernel[1];
  const int64_t rows = p.outputs[1], columns = p.outputs[2];
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t line = 0; line < samples * rows; ++line) {
    const T *image = images + line / rows * height * width * channels;
    T *out = patches + line * columns * down * right * channels;
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t first = column * p.stride - p.left;  // of the window; some may lie outside
      const int64_t begin = std::max(first, int64_t{0}), end = std::min(first + right, width);
      for (int64_t tap = 0; tap < down; ++tap, out += right * channels) {
        const int64_t row = line % rows * p.stride + tap - p.top;
        if (row < 0 || row >= height || begin >= end) {
          std::fill_n(out, right * channels, T{0});
          continue;
        }
        std::fill_n(out, (begin - first) * channels, T{0});
        std::copy_n(image + (row * width + begin) * channels, (end - begin) * channels,
                    out + (begin - first) * channels);
        std::fill_n(out + (end - first) * channels, (first + right - end) * channels, T{0});
      }
    }
  }
}

void by_patches(const Problem &p, int64_t threads, const uint16_t *images, const uint16_t *cotangent,
                float *kernel) {
  static thread_local Block patches_block, scratch_block;
  const int64_t outputs = p.outputs[3], taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int64_t pixels = p.outputs[1] * p.outputs[2], image = p.images[1] * p.images[2] * p.images[3];
  const bool are_images = p.kernel[0] * p.kernel[1] * p.stride == 1;
  const int64_t most = are_images ? p.images[0] : std::max(int64_t(kMostPatches / (pixels * taps * sizeof *images)), int64_t{1});
  std::fill_n(kernel, taps * outputs, 0.0f);
  dnnl::stream stream(cpu());
  for (int64_t at = 0; at < p.images[0]; at += most) {
    const int64_t samples = std::min(most, p.images[0] - at), rows = samples * pixels;
    const auto product = once<Product>({threads, rows, taps, outputs}, [&] {
      return make_product(rows, taps, outputs);
    });
    const uint16_t *patches = images + at * image;
    if (!are_images) {
      auto *block = static_cast<uint16_t *>(patches_block.at_least(rows * taps * sizeof *images));
      gather(p, images + at * image, samples, threads, block);
      patches = block;
    }
    product->run.execute(
        stream, {{DNNL_ARG_SRC, memory(product->patches, cpu(), const_cast<uint16_t *>(patches))},
                 {DNNL_ARG_WEIGHTS, memory(product->cotangent, cpu(),
                                           const_cast<uint16_t *>(cotangent + at * pixels * outputs))},
                 {DNNL_ARG_DST, memory(product->kernel, cpu(), kernel)},
                 {DNNL_ARG_SCRATCHPAD,
                  memory(product->scratch, cpu(), scratch_block.at_least(product->scratch.get_size()))}});
    stream.wait();
  }
  patches_block.shrink();
  scratch_block.shrink();
}

// Given: images, kernel, bias.
void convolve(const Frame &frame) {
  const auto problem = problem_of(frame, frame.given(0), frame.given(1), frame.result(0), frame.is("biased"));
  run(kForward, frame, problem, frame.given(2).data);
}

// Given: the cotangent of the outputs, the kernel.
void to_images(const Frame &frame) {
  const auto problem = problem_of(frame, frame.result(0), frame.given(1), frame.given(0), false);
  run(kToImages, frame, problem, nullptr);
}

// Given: images, the cotangent of the outputs.
void to_kernel(const Frame &frame) {
  const auto problem = problem_of(frame, frame.given(0), frame.result(0), frame.given(1), frame.is("biased"));
  run(kToKernel, frame, problem, frame.result(1).data);
}

// Given: images, the cotangent of the outputs.
void to_kernel_by_patches(const Frame &frame) {
  const auto problem = problem_of(frame, frame.given(0), frame.result(0), frame.given(1), false);
  if (problem.of_images != memory::data_type::bf16 || problem.of_outputs != memory::data_type::bf16 || problem.groups != 1)
    throw std::invalid_argument("only bfloat16 without groups is gathered");
  const int64_t threads = frame.threads(problem.work());
  const Threads limit(static_cast<int>(threads));
  by_patches(problem, threads, frame.from<uint16_t>(0), frame.from<uint16_t>(1), frame.to<float>(0));
}

}  // namespace

FUNCTION(jaxsnn_convolve, convolve)
FUNCTION(jaxsnn_to_images, to_images)
FUNCTION(jaxsnn_to_kernel, to_kernel)
FUNCTION(jaxsnn_to_kernel_by_patches, to_kernel_by_patches)

extern "C" int jaxsnn_onednn_version() {
  const auto *version = dnnl_version();
  return version->major * 100 + version->minor;
}

extern "C" int jaxsnn_instruction_set() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }
