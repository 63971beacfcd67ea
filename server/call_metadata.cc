#include "server/call_metadata.h"

namespace tessera {
namespace {

constexpr size_t kTraceparentSize = 55;
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdSize = 32;

bool IsLowerHex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

std::optional<std::string> FindMetadata(const grpc::CallbackServerContext& context,
                                        const std::string& key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return std::nullopt;
  return std::string(found->second.data(), found->second.size());
}

std::string TraceIdOf(const std::string& traceparent) {
  if (traceparent.size() < kTraceparentSize || traceparent[2] != '-' || traceparent[35] != '-') {
    return "";
  }
  std::string trace_id = traceparent.substr(kTraceIdAt, kTraceIdSize);
  const bool all_zero = trace_id.find_first_not_of('0') == std::string::npos;
  return IsLowerHex(trace_id) && !all_zero ? trace_id : "";
}

}  // namespace tessera
