// A call by XLA through its C interface: arrays by their place, numbers by their name.
//
// XLA has a header for C++, too. Its templates take a compiler longer than all that they surround,
// and whoever runs a program for the first time waits for it.

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include "xla/ffi/api/c_api.h"

namespace {

using Array = XLA_FFI_Buffer;

constexpr int64_t kGrain = 1 << 16;  // numbers of a pass that take as long as to wake a thread

inline int64_t size_of(const Array &array) {
  int64_t size = 1;
  for (int64_t i = 0; i < array.rank; ++i) size *= array.dims[i];
  return size;
}

class Frame {
 public:
  explicit Frame(const XLA_FFI_CallFrame *frame) : frame_(frame) {}

  const Array &given(int64_t place) const {
    if (place >= frame_->args.size) throw std::invalid_argument("an array is missing");
    return *static_cast<const Array *>(frame_->args.args[place]);
  }
  const Array &result(int64_t place) const {
    if (place >= frame_->rets.size) throw std::invalid_argument("a result is missing");
    return *static_cast<const Array *>(frame_->rets.rets[place]);
  }
  // The numbers of an array that is given, or of one to be written.
  template <typename T>
  const T *from(int64_t place) const { return static_cast<const T *>(given(place).data); }
  template <typename T>
  T *to(int64_t place) const { return static_cast<T *>(result(place).data); }

  // How many threads share a pass over so many numbers.
  int64_t threads(int64_t numbers) const {
    return std::max(std::min(whole("threads"), numbers / kGrain), int64_t{1});
  }

  int64_t whole(const char *name) const { return scalar<int64_t>(name, XLA_FFI_DataType_S64); }
  float real(const char *name) const { return scalar<float>(name, XLA_FFI_DataType_F32); }
  bool is(const char *name) const { return scalar<bool>(name, XLA_FFI_DataType_PRED); }
  const int64_t *wholes(const char *name) const {
    const auto *found = static_cast<const XLA_FFI_Array *>(find(name, XLA_FFI_AttrType_ARRAY));
    if (found->dtype != XLA_FFI_DataType_S64) refuse(name);
    return static_cast<const int64_t *>(found->data);
  }

 private:
  template <typename T>
  T scalar(const char *name, XLA_FFI_DataType type) const {
    const auto *found = static_cast<const XLA_FFI_Scalar *>(find(name, XLA_FFI_AttrType_SCALAR));
    if (found->dtype != type) refuse(name);
    return *static_cast<const T *>(found->value);
  }
  const void *find(const char *name, XLA_FFI_AttrType type) const {
    const XLA_FFI_Attrs &known = frame_->attrs;
    for (int64_t i = 0; i < known.size; ++i)
      if (known.types[i] == type && std::string_view(known.names[i]->ptr, known.names[i]->len) == name)
        return known.attrs[i];
    refuse(name);
  }
  [[noreturn]] static void refuse(const char *name) {
    throw std::invalid_argument(std::string(name) + " is missing, or of another type");
  }

  const XLA_FFI_CallFrame *frame_;
};

// Call a function with a value of the type that an array holds.
template <typename Body>
void with_type(const Array &array, const Body &body) {
  if (array.dtype == XLA_FFI_DataType_F32) body(float{});
  else if (array.dtype == XLA_FFI_DataType_BF16) body(bfloat16{});
  else throw std::invalid_argument("only float32 and bfloat16 are computed");
}

// Answer XLA: with the version that it asks for, or by a function; with an error if that throws.
XLA_FFI_Error *answer(XLA_FFI_CallFrame *frame, const char *name, void (*function)(const Frame &)) {
  for (auto *each = frame->extension_start; each; each = each->next)
    if (each->type == XLA_FFI_Extension_Metadata) {
      auto *known = reinterpret_cast<XLA_FFI_Metadata_Extension *>(each)->metadata;
      known->api_version.major_version = XLA_FFI_API_MAJOR;
      known->api_version.minor_version = XLA_FFI_API_MINOR;
      return nullptr;
    }
  try {
    function(Frame(frame));
    return nullptr;
  } catch (const std::exception &error) {
    const std::string message = std::string(name) + ": " + error.what();
    XLA_FFI_Error_Create_Args failed{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr,
                                     message.c_str(), XLA_FFI_Error_Code_INTERNAL};
    return frame->api->XLA_FFI_Error_Create(&failed);
  }
}

}  // namespace

// Give a function the name by which XLA finds it.
#define FUNCTION(name, function) \
  extern "C" XLA_FFI_Error *name(XLA_FFI_CallFrame *frame) { return answer(frame, #name, function); }
