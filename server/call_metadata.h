#pragma once

#include <grpcpp/server_context.h>

#include <optional>
#include <string>

namespace tessera {

// A metadata value; the first where there are several.
std::optional<std::string> FindMetadata(const grpc::CallbackServerContext& context,
                                        const std::string& key);

// A call's place in a distributed trace (w3.org/TR/trace-context), in hexadecimal digits.
struct TraceContext {
  std::string trace_id;        // 32; empty: none
  std::string parent_span_id;  // 16; empty: the call begins the trace
  bool is_sampled = false;
};

// Of a traceparent header, "00-<trace id>-<parent id>-<flags>"; none where it is missing or not
// well-formed.
TraceContext ParseTraceparent(const std::string& traceparent);

}  // namespace tessera
