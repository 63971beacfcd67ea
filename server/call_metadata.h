#pragma once

#include <grpcpp/server_context.h>

#include <optional>
#include <string>

namespace tessera {

// A metadata value; the first where there are several.
std::optional<std::string> FindMetadata(const grpc::CallbackServerContext& context,
                                        const std::string& key);

// The trace id of a W3C traceparent header ("00-<trace id>-<parent id>-<flags>"); empty where the
// header is missing or not well-formed.
std::string TraceIdOf(const std::string& traceparent);

}  // namespace tessera
