#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

// How an error travels from where it is found to the client: an absl::Status whose payloads are the
// google.rpc details, made a grpc::Status with a google.rpc.Status at the end.

namespace tessera {

// INVALID_ARGUMENT with a BadRequest detail: "sampling.top_p: expected a number in (0, 1],
// got 1.5".
absl::Status InvalidField(const std::string& field, const std::string& expected,
                          const std::string& actual);

// The status with a BadRequest detail that names a field.
absl::Status WithField(const std::string& field, const absl::Status& status);

// RESOURCE_EXHAUSTED with RetryInfo and QuotaFailure details.
absl::Status Overloaded(const std::string& limit_name, const std::string& message,
                        std::chrono::milliseconds retry_after);

// RESOURCE_EXHAUSTED with a QuotaFailure and an ErrorInfo of reason TENANT_QUOTA: another daemon
// would refuse it just the same, so clients are told not to retry by themselves.
absl::Status QuotaExceeded(const std::string& limit_name, const std::string& message);

// UNAVAILABLE with a RetryInfo detail: another daemon, or this one's successor, can serve the
// request.
absl::Status Draining();

grpc::Status ToGrpcStatus(const absl::Status& status);

// What the trailer grpc-retry-pushback-ms says: the delay of the status's RetryInfo, or -1, never,
// of a quota's.
std::optional<std::chrono::milliseconds> RetryPushback(const absl::Status& status);

}  // namespace tessera
