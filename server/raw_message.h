#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

// Our services take and give bytes, not messages: gRPC answers bytes that do not parse, such as a
// string that is not UTF-8, with an INTERNAL that says nothing.

namespace tessera {

// INVALID_ARGUMENT where the bytes are not such a message, or a string in them is not UTF-8.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace tessera
