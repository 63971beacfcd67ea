#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "client/options.h"

namespace tessera {

std::shared_ptr<grpc::Channel> Connect(const ConnectionOptions& options);

// Sets what every call carries: deadline, key and tenant.
void PrepareContext(const ConnectionOptions& options, grpc::ClientContext* context);

// "INVALID_ARGUMENT: top_p: expected ...", on stderr. Returns the exit code of a failed command, 1.
int ReportFailure(const grpc::Status& status);

const char* StatusCodeName(grpc::StatusCode code);

}  // namespace tessera
