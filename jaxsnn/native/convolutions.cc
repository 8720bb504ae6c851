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

std::vector<int64_t> shape(ffi::Span<const int64_t> dimensions) {
  return {dimensions.begin(), dimensions.end()};
}

memory::data_type type(ffi::DataType found) {
  if (found == ffi::DataType::F32) return memory::data_type::f32;
  if (found == ffi::DataType::BF16) return memory::data_type::bf16;
  throw std::invalid_argument("only float32 and bfloat16 are convolved");
}

// What a call knows beside its arrays.
struct Options {
  int64_t stride;
  ffi::Span<const int64_t> borders;
  int64_t groups, threads;
  bool biased;
};

ffi::Error run(int64_t direction, const Options &o, const ffi::AnyBuffer &images,
               const ffi::AnyBuffer &kernel, const ffi::AnyBuffer &outputs, void *first,
               void *second, void *bias, void *result) {
  try {
    const Problem problem{shape(images.dimensions()), shape(kernel.dimensions()),
                          shape(outputs.dimensions()), type(images.element_type()),
                          type(kernel.element_type()), type(outputs.element_type()),
                          o.stride, o.borders[0], o.borders[1], o.borders[2], o.borders[3],
                          o.groups, o.biased};
    const Threads limit(static_cast<int>(o.threads));
    const auto known = once<Convolution>(problem.key(direction, o.threads), [&] { return make(direction, problem); });
    execute(direction, *known, first, second, bias, result);
    return ffi::Error::Success();
  } catch (const std::exception &error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
}

// The gradient of a kernel as a product: all patches of the images, transposed, with the cotangent.
// Over few pixels oneDNN's own takes up to seven times as long.
struct Product {
  dnnl::primitive run;
  memory::desc patches, cotangent, kernel, scratch;
};

Product make_product(int64_t rows, int64_t taps, int64_t outputs, memory::data_type type) {
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
      return make_product(rows, taps, outputs, memory::data_type::bf16);
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

ffi::Error convolve(ffi::AnyBuffer images, ffi::AnyBuffer kernel, ffi::AnyBuffer bias,
                    ffi::Result<ffi::AnyBuffer> outputs, int64_t stride,
                    ffi::Span<const int64_t> borders, int64_t groups, int64_t threads, bool biased) {
  return run(kForward, {stride, borders, groups, threads, biased}, images, kernel, *outputs,
             images.untyped_data(), kernel.untyped_data(), bias.untyped_data(),
             outputs->untyped_data());
}

ffi::Error to_images(ffi::AnyBuffer cotangent, ffi::AnyBuffer kernel,
                     ffi::Result<ffi::AnyBuffer> images, int64_t stride,
                     ffi::Span<const int64_t> borders, int64_t groups, int64_t threads) {
  return run(kToImages, {stride, borders, groups, threads, false}, *images, kernel, cotangent,
             cotangent.untyped_data(), kernel.untyped_data(), nullptr, images->untyped_data());
}

ffi::Error to_kernel(ffi::AnyBuffer images, ffi::AnyBuffer cotangent,
                     ffi::Result<ffi::AnyBuffer> kernel, ffi::Result<ffi::AnyBuffer> bias,
                     int64_t stride, ffi::Span<const int64_t> borders, int64_t groups,
                     int64_t threads, bool biased) {
  return run(kToKernel, {stride, borders, groups, threads, biased}, images, *kernel, cotangent,
             images.untyped_data(), cotangent.untyped_data(), bias->untyped_data(),
             kernel->untyped_data());
}

ffi::Error to_kernel_by_patches(ffi::AnyBuffer images, ffi::AnyBuffer cotangent,
                                ffi::Result<ffi::AnyBuffer> kernel, int64_t stride,
                                ffi::Span<const int64_t> borders, int64_t groups, int64_t threads) {
  try {
    if (images.element_type() != ffi::DataType::BF16 || groups != 1)
      throw std::invalid_argument("only bfloat16 without groups is gathered");
    const Problem problem{shape(images.dimensions()), shape(kernel->dimensions()),
                          shape(cotangent.dimensions()), memory::data_type::bf16,
                          memory::data_type::f32, memory::data_type::bf16,
                          stride, borders[0], borders[1], borders[2], borders[3], groups, false};
    const Threads limit(static_cast<int>(threads));
    by_patches(problem, threads, static_cast<const uint16_t *>(images.untyped_data()),
               static_cast<const uint16_t *>(cotangent.untyped_data()),
               static_cast<float *>(kernel->untyped_data()));
    return ffi::Error::Success();
  } catch (const std::exception &error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
}

// Add the numbers that each function is told to the arrays that it takes and gives.
template <typename Arrays>
auto told(Arrays &&arrays) {
  return std::forward<Arrays>(arrays)
      .template Attr<int64_t>("stride")
      .template Attr<ffi::Span<const int64_t>>("borders")
      .template Attr<int64_t>("groups")
      .template Attr<int64_t>("threads");
}

using Buffer = ffi::AnyBuffer;

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxsnn_convolve, convolve,
    told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()).Attr<bool>("biased"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsnn_to_images, to_images,
                              told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxsnn_to_kernel, to_kernel,
    told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Ret<Buffer>()).Attr<bool>("biased"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxsnn_to_kernel_by_patches, to_kernel_by_patches,
                              told(ffi::Ffi::Bind().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()));

extern "C" int jaxsnn_onednn_version() {
  const auto *version = dnnl_version();
  return version->major * 100 + version->minor;
}

extern "C" int jaxsnn_instruction_set() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }
