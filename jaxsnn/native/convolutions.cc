// The convolutions of oneDNN as functions that XLA calls: forward, and both gradients.
//
// Layout: images [N, H, W, C], kernels [kh, kw, C / groups, O], outputs [N, H', W', O]; float32 or
// bfloat16 in, float32 or bfloat16 out, sums in float32. A primitive is made once for each shape
// and shared by all threads. Its scratch memory and its reordered kernel belong to the calling
// thread, so that calls on several devices never meet.

#include <omp.h>

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
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;

namespace {

enum Direction : int64_t { kForward, kToImages, kToKernel };

constexpr size_t kMostPrimitives = 1024;       // of a process; beyond it all are made anew
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

std::shared_ptr<const Convolution> find(int64_t direction, int64_t threads, const Problem &p) {
  static std::mutex lock;
  static std::map<std::vector<int64_t>, std::shared_ptr<const Convolution>> known;
  const auto key = p.key(direction, threads);
  std::lock_guard<std::mutex> guard(lock);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() >= kMostPrimitives) known.clear();
  return known[key] = std::make_shared<const Convolution>(make(direction, p));
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
    execute(direction, *find(direction, o.threads, problem), first, second, bias, result);
    return ffi::Error::Success();
  } catch (const std::exception &error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
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

extern "C" int jaxsnn_onednn_version() {
  const auto *version = dnnl_version();
  return version->major * 100 + version->minor;
}

extern "C" int jaxsnn_instruction_set() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }
