/* Compiled networks as calls inside of a JAX program: one handler for all of them.

   A network is known by a key made of its library's name, which is the same in each process. So a
   program from a cache of compiled programs finds its network again, or says that it cannot. */

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "xla/ffi/api/c_api.h"

typedef struct Network {
  int64_t key;
  void (*one)(const void *sample, int32_t *scores);
  void (*many)(const void *samples, int32_t *scores, int32_t count);
  int64_t sample_bytes, classes;
  pthread_mutex_t turn; /* its working memory is static */
  struct Network *next;
} Network;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER; /* of the list */
static Network *networks;

static Network *find(int64_t key) {
  pthread_mutex_lock(&guard);
  Network *found = networks;
  while (found && found->key != key) found = found->next;
  pthread_mutex_unlock(&guard);
  return found;
}

static void run(Network *network, const char *samples, int32_t *scores, int64_t count,
                int64_t batched) {
  const int64_t most = batched ? 1 << 30 : 1;
  pthread_mutex_lock(&network->turn);
  for (int64_t first = 0; first < count; first += most) {
    const char *from = samples + first * network->sample_bytes;
    int32_t *to = scores + first * network->classes;
    if (batched)
      network->many(from, to, (int32_t)(count - first < most ? count - first : most));
    else
      network->one(from, to);
  }
  pthread_mutex_unlock(&network->turn);
}

static XLA_FFI_Error *failure(const XLA_FFI_Api *api, const char *message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, 0, message,
                                    XLA_FFI_Error_Code_FAILED_PRECONDITION};
  return api->XLA_FFI_Error_Create(&args);
}

static int64_t scalar(const XLA_FFI_CallFrame *frame, int place) {
  return *(const int64_t *)((const XLA_FFI_Scalar *)frame->attrs.attrs[place])->value;
}

static int64_t elements(const XLA_FFI_Buffer *buffer, int64_t rank) {
  int64_t count = 1;
  for (int64_t i = 0; i < rank; i++) count *= buffer->dims[i];
  return count;
}

/* One buffer [..., values], one result int32 [..., classes]; attributes, by name: batched, key. */
XLA_FFI_Error *jaxsnn_network(XLA_FFI_CallFrame *frame) {
  for (XLA_FFI_Extension_Base *each = frame->extension_start; each; each = each->next)
    if (each->type == XLA_FFI_Extension_Metadata) { /* XLA asks which version this is */
      XLA_FFI_Api_Version *version = &((XLA_FFI_Metadata_Extension *)each)->metadata->api_version;
      version->major_version = XLA_FFI_API_MAJOR;
      version->minor_version = XLA_FFI_API_MINOR;
      return 0;
    }
  if (frame->args.size != 1 || frame->rets.size != 1 || frame->attrs.size != 2)
    return failure(frame->api, "the call is not one of this release of jaxsnn");
  Network *network = find(scalar(frame, 1));
  if (!network) return failure(frame->api, "this process has not built the network");
  const XLA_FFI_Buffer *samples = frame->args.args[0], *scores = frame->rets.rets[0];
  const int64_t count = elements(scores, scores->rank - 1);
  if (elements(samples, samples->rank - 1) != count ||
      scores->dims[scores->rank - 1] != network->classes)
    return failure(frame->api, "the samples are not those of the network");
  run(network, samples->data, scores->data, count, scalar(frame, 0));
  return 0;
}

int jaxsnn_has_network(int64_t key) { return find(key) != 0; }

/* Return 0 if there is no memory for it. */
int jaxsnn_add_network(int64_t key, void (*one)(const void *, int32_t *),
                       void (*many)(const void *, int32_t *, int32_t), int64_t sample_bytes,
                       int64_t classes) {
  if (find(key)) return 1;
  Network *added = malloc(sizeof *added);
  if (!added) return 0;
  *added = (Network){key, one, many, sample_bytes, classes, PTHREAD_MUTEX_INITIALIZER, 0};
  pthread_mutex_lock(&guard);
  added->next = networks;
  networks = added;
  pthread_mutex_unlock(&guard);
  return 1;
}

/* The same from Python, in turn with the calls of programs. */
void jaxsnn_run_network(int64_t key, const char *samples, int32_t *scores, int64_t count,
                        int batched) {
  run(find(key), samples, scores, count, batched);
}
