#include "server/call_metadata.h"

namespace tessera {
namespace {

constexpr size_t kTraceparentSize = 55;
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdSize = 32;
constexpr size_t kParentIdAt = 36;
constexpr size_t kParentIdSize = 16;
constexpr size_t kFlagsAt = 53;

bool IsLowerHex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool IsId(const std::string& text) {
  return IsLowerHex(text) && text.find_first_not_of('0') != std::string::npos;
}

}  // namespace

std::optional<std::string> FindMetadata(const grpc::CallbackServerContext& context,
                                        const std::string& key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return std::nullopt;
  return std::string(found->second.data(), found->second.size());
}

TraceContext ParseTraceparent(const std::string& traceparent) {
  if (traceparent.size() < kTraceparentSize || traceparent[2] != '-' || traceparent[35] != '-' ||
      traceparent[52] != '-') {
    return {};
  }
  TraceContext context = {.trace_id = traceparent.substr(kTraceIdAt, kTraceIdSize),
                          .parent_span_id = traceparent.substr(kParentIdAt, kParentIdSize)};
  const std::string flags = traceparent.substr(kFlagsAt, 2);
  if (!IsId(context.trace_id) || !IsId(context.parent_span_id) || !IsLowerHex(flags)) return {};
  context.is_sampled = std::stoi(flags, nullptr, 16) % 2 == 1;
  return context;
}

}  // namespace tessera
