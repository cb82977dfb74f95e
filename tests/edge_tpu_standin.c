/* A stand-in for libedgetpu: a delegate that claims the operators named edgetpu-custom-op and computes them.
 *
 * Each operator's custom options hold one fully connected layer: six int32 (MAGIC, inputs, outputs, shift, zero point
 * of the input, zero point of the output), then int8 weights [outputs][inputs], then int32 biases [outputs], all little
 * endian. Its answer is  clamp(round((sum(weight * (x - zero_in)) + bias) / 2^shift) + zero_out).
 *
 * The structs are written down from tensorflow/lite/core/c/common.h as it is from TensorFlow 2.14 to LiteRT 2.3; of
 * those that only the runtime makes, no more than what is read here. TfLiteRegistration is passed by value, so it has
 * to be as long as in the newest of them: what a shorter one leaves out would be read from the stack. The two exported
 * functions are those of tensorflow/lite/delegates/external/external_delegate_interface.h.
 *
 * -D chooses what is wrong with it: REFUSES, CRASHES, HANGS (all at load), FAIL_AT=n (the n-th inference of a process
 * and all later ones fail), OFF_BY=n (every answer), WRONG (the answer is upside down), RUNTIME=n (its version).
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef FAIL_AT
#define FAIL_AT 0
#endif
#ifndef OFF_BY
#define OFF_BY 0
#endif
#ifndef RUNTIME
#define RUNTIME 14
#endif
#define TEXT_OF(value) #value
#define TEXT(value) TEXT_OF(value)
#define MAGIC 0x55505445

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

typedef struct {
  int type;
  void *data;
  TfLiteIntArray *dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void *params;
  } quantization;
  void *sparsity;
  const TfLiteIntArray *dims_signature;
} TfLiteTensor;

typedef struct {
  TfLiteIntArray *inputs;
  TfLiteIntArray *outputs;
  TfLiteIntArray *intermediates;
  TfLiteIntArray *temporaries;
  void *user_data;
  void *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
} TfLiteNode;

struct TfLiteContext;
struct TfLiteDelegate;

typedef struct TfLiteRegistration {
  void *(*init)(struct TfLiteContext *, const char *buffer, size_t length);
  void (*free)(struct TfLiteContext *, void *buffer);
  TfLiteStatus (*prepare)(struct TfLiteContext *, TfLiteNode *);
  TfLiteStatus (*invoke)(struct TfLiteContext *, TfLiteNode *);
  const char *(*profiling_string)(const struct TfLiteContext *, const TfLiteNode *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *(*async_kernel)(struct TfLiteContext *, TfLiteNode *);
  uint64_t inplace_operator;
} TfLiteRegistration;

typedef struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext *, TfLiteIntArray **plan);
  TfLiteTensor *tensors;
  void *impl_;
  TfLiteStatus (*ResizeTensor)(struct TfLiteContext *, TfLiteTensor *, TfLiteIntArray *);
  void (*ReportError)(struct TfLiteContext *, const char *format, ...);
  TfLiteStatus (*AddTensors)(struct TfLiteContext *, int, int *);
  TfLiteStatus (*GetNodeAndRegistration)(struct TfLiteContext *, int node, TfLiteNode **, TfLiteRegistration **);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(struct TfLiteContext *, TfLiteRegistration,
                                                        const TfLiteIntArray *nodes, struct TfLiteDelegate *);
} TfLiteContext;

typedef struct TfLiteDelegate {
  void *data_;
  TfLiteStatus (*Prepare)(TfLiteContext *, struct TfLiteDelegate *);
  TfLiteStatus (*CopyFromBufferHandle)(TfLiteContext *, struct TfLiteDelegate *, int, TfLiteTensor *);
  TfLiteStatus (*CopyToBufferHandle)(TfLiteContext *, struct TfLiteDelegate *, int, TfLiteTensor *);
  void (*FreeBufferHandle)(TfLiteContext *, struct TfLiteDelegate *, int *);
  int64_t flags;
  void *opaque_delegate_builder;
} TfLiteDelegate;

typedef struct {
  TfLiteDelegate *delegate;
  TfLiteIntArray *nodes_to_replace;
  TfLiteIntArray *input_tensors;
  TfLiteIntArray *output_tensors;
} TfLiteDelegateParams;

typedef struct {
  int32_t magic, inputs, outputs, shift, zero_in, zero_out;
} Header;

typedef struct {
  Header header;
  int source, target;
  int8_t *weights;
  int32_t *biases;
} Layer;

static int inferences;

static void layer_free(TfLiteContext *context, void *buffer) {
  Layer *layer = buffer;
  (void)context;
  if (layer) {
    free(layer->weights);
    free(layer->biases);
    free(layer);
  }
}

static void *layer_init(TfLiteContext *context, const char *buffer, size_t length) {
  const TfLiteDelegateParams *params = (const TfLiteDelegateParams *)buffer;
  TfLiteNode *node;
  TfLiteRegistration *registration;
  (void)length;
  if (params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk)
    return NULL;
  Layer *layer = calloc(1, sizeof *layer);
  const char *program = node->custom_initial_data;
  size_t size = (size_t)node->custom_initial_data_size;
  if (size >= sizeof layer->header) memcpy(&layer->header, program, sizeof layer->header);
  size_t weights = (size_t)layer->header.inputs * (size_t)layer->header.outputs;
  size_t biases = (size_t)layer->header.outputs * sizeof(int32_t);
  if (layer->header.magic != MAGIC || size != sizeof layer->header + weights + biases) {
    layer_free(context, layer);
    return NULL;
  }
  layer->weights = malloc(weights);
  layer->biases = malloc(biases);
  memcpy(layer->weights, program + sizeof layer->header, weights);
  memcpy(layer->biases, program + sizeof layer->header + weights, biases);
  layer->source = node->inputs->data[0];
  layer->target = node->outputs->data[0];
  return layer;
}

static TfLiteStatus layer_prepare(TfLiteContext *context, TfLiteNode *node) {
  const Layer *layer = node->user_data;
  if (layer == NULL || context->tensors[layer->source].bytes != (size_t)layer->header.inputs ||
      context->tensors[layer->target].bytes != (size_t)layer->header.outputs) {
    context->ReportError(context, "the stand-in cannot read the operator's program");
    return kTfLiteError;
  }
  return kTfLiteOk;
}

static TfLiteStatus layer_invoke(TfLiteContext *context, TfLiteNode *node) {
  const Layer *layer = node->user_data;
  const Header *header = &layer->header;
  const int8_t *x = context->tensors[layer->source].data;
  int8_t *y = context->tensors[layer->target].data;
  inferences += 1;
  if (FAIL_AT && inferences >= FAIL_AT) {
    context->ReportError(context, "the stand-in's device is gone");
    return kTfLiteError;
  }
  for (int32_t row = 0; row < header->outputs; row++) {
    int32_t sum = layer->biases[row];
    for (int32_t column = 0; column < header->inputs; column++)
      sum += layer->weights[row * header->inputs + column] * (x[column] - header->zero_in);
    /* An arithmetic shift of the half-raised sum rounds to nearest; halves do not occur in the tests' layers. */
    int32_t value = ((sum + (1 << (header->shift - 1))) >> header->shift) + header->zero_out + OFF_BY;
#ifdef WRONG
    value = -value;
#endif
    y[row] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
  }
  return kTfLiteOk;
}

static TfLiteStatus claim(TfLiteContext *context, TfLiteDelegate *delegate) {
  TfLiteIntArray *plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  TfLiteIntArray *claimed = calloc(1, sizeof *claimed + (size_t)plan->size * sizeof(int));
  for (int place = 0; place < plan->size; place++) {
    TfLiteNode *node;
    TfLiteRegistration *registration;
    if (context->GetNodeAndRegistration(context, plan->data[place], &node, &registration) == kTfLiteOk &&
        registration->custom_name && strcmp(registration->custom_name, "edgetpu-custom-op") == 0)
      claimed->data[claimed->size++] = plan->data[place];
  }
  TfLiteRegistration kernel = {
      .init = layer_init, .free = layer_free, .prepare = layer_prepare, .invoke = layer_invoke,
      .custom_name = "StandInForEdgeTpu", .version = 1};
  TfLiteStatus status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, claimed, delegate);
  free(claimed);
  return status;
}

TfLiteDelegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
#ifdef CRASHES
  raise(SIGSEGV);
#endif
#ifdef HANGS
  for (;;) pause();
#endif
  for (size_t place = 0; place < count; place++)
    /* There is one device, and it is on USB. */
    if (strcmp(keys[place], "device") != 0 || (strcmp(values[place], "usb") != 0 && strcmp(values[place], "usb:0") != 0)) {
      report("no such device");
      return NULL;
    }
#ifdef REFUSES
  return NULL;
#endif
  TfLiteDelegate *delegate = calloc(1, sizeof *delegate);
  delegate->Prepare = claim;
  /* kTfLiteDelegateFlagsAllowDynamicTensors. Without it the runtime prepares every operator before it asks a delegate,
   * and fails on one that no kernel is known for. */
  delegate->flags = 1;
  return delegate;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate *delegate) { free(delegate); }

const char *edgetpu_version(void) { return "BuildLabel(COMPILER=stand-in), RuntimeVersion(" TEXT(RUNTIME) ")"; }
