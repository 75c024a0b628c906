// What the library exports: ORT's entry point, and what it says about itself.

#include "../kernels/dispatch.h"
#include "custom_ops.h"

#if defined(_WIN32)
#define BITFOLD_EXPORT extern "C" __declspec(dllexport)
#else
#define BITFOLD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

using namespace bitfold::ops;

// The operators live as long as the library: ORT keeps pointers to them.
OrtStatus* add_ops(const OrtApi* api, OrtSessionOptions* options) {
  static const CustomOp ops[] = {lowbit_matmul_op(api), lowbit_gather_op(api), lowbit_conv_op(api),
                                 hadamard_op(api), fused_attention_op(api)};
  OrtCustomOpDomain* domain = nullptr;
  OrtStatus* status = api->CreateCustomOpDomain("bitfold", &domain);
  for (const CustomOp& op : ops)
    if (status == nullptr) status = api->CustomOpDomain_Add(domain, &op);
  return status ? status : api->AddCustomOpDomain(options, domain);
}

}  // namespace

// Registers the operators; called by ORT for each session that asks for the library.
BITFOLD_EXPORT OrtStatus* BITFOLD_ORT_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                             const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    // The first entries are the same in every version: enough to say why.
    const OrtApi* oldest = base->GetApi(1);
    if (oldest == nullptr) return nullptr;
    return guarded(oldest, "bitfold", [&] {
      refuse(std::string("expected ONNX Runtime ") + kApiRelease + " or newer, found " +
             base->GetVersionString());
    });
  }
  if (bitfold::kernels() == nullptr)
    return guarded(api, "bitfold", [] { refuse(bitfold::kernels_error()); });
  return add_ops(api, options);
}

// The ISA whose kernels are used ("ref", "avx2", ...), or null: see bitfold_error.
BITFOLD_EXPORT const char* bitfold_isa() {
  return bitfold::kernels() ? bitfold::kernels()->isa : nullptr;
}

// The ISAs that this build and CPU have, separated by commas.
BITFOLD_EXPORT const char* bitfold_supported_isas() { return bitfold::supported_isas(); }

// Why bitfold_isa is null, or an empty string.
BITFOLD_EXPORT const char* bitfold_error() { return bitfold::kernels_error(); }
