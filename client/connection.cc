#include "client/connection.h"

#include <chrono>
#include <cstdio>

namespace tessera {

namespace {

std::shared_ptr<grpc::ChannelCredentials> MakeCredentials(const ConnectionOptions& options) {
  if (options.tls_authorities.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = options.tls_authorities,
                               .pem_private_key = options.tls_key,
                               .pem_cert_chain = options.tls_certificate});
}

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const ConnectionOptions& options) {
  grpc::ChannelArguments arguments;
  constexpr int kMaxMessageBytes = 64 << 20;  // echo and logprobs of a long prompt
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Channels with equal arguments share one connection otherwise, and with it its flow control.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(options.target, MakeCredentials(options), arguments);
}

void PrepareContext(const ConnectionOptions& options, grpc::ClientContext* context) {
  if (options.deadline_seconds.has_value()) {
    const auto timeout = std::chrono::duration<double>(*options.deadline_seconds);
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(timeout));
  }
  if (!options.api_key.empty()) {
    context->AddMetadata("authorization", "Bearer " + options.api_key);
  }
  if (!options.tenant.empty()) context->AddMetadata(options.tenant_metadata, options.tenant);
}

int ReportFailure(const grpc::Status& status) {
  std::fprintf(stderr, "tessera: %s: %s\n", StatusCodeName(status.error_code()),
               status.error_message().c_str());
  return 1;
}

const char* StatusCodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::UNKNOWN:
      return "UNKNOWN";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DATA_LOSS:
      return "DATA_LOSS";
    case grpc::StatusCode::DO_NOT_USE:
      break;
  }
  return "UNKNOWN";
}

}  // namespace tessera
