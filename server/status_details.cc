#include "server/status_details.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tessera {
namespace {

constexpr char kTypeUrlPrefix[] = "type.googleapis.com/";
constexpr std::chrono::milliseconds kDrainRetryDelay{1000};

std::string TypeUrl(const google::protobuf::Message& detail) {
  return kTypeUrlPrefix + detail.GetDescriptor()->full_name();
}

void AddDetail(const google::protobuf::Message& detail, absl::Status* status) {
  status->SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
}

void AddRetryInfo(std::chrono::milliseconds delay, absl::Status* status) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(delay.count() / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int>(delay.count() % 1000) * 1'000'000);
  AddDetail(retry, status);
}

void AddQuotaFailure(const std::string& limit_name, const std::string& message,
                     absl::Status* status) {
  google::rpc::QuotaFailure quota;
  google::rpc::QuotaFailure::Violation* violation = quota.add_violations();
  violation->set_subject(limit_name);
  violation->set_description(message);
  AddDetail(quota, status);
}

}  // namespace

absl::Status InvalidField(const std::string& field, const std::string& expected,
                          const std::string& actual) {
  return WithField(field, absl::InvalidArgumentError(
                              absl::StrCat(field, ": expected ", expected, ", got ", actual)));
}

absl::Status WithField(const std::string& field, const absl::Status& status) {
  google::rpc::BadRequest bad_request;
  google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(std::string(status.message()));
  absl::Status detailed = status;
  AddDetail(bad_request, &detailed);
  return detailed;
}

absl::Status Overloaded(const std::string& limit_name, const std::string& message,
                        std::chrono::milliseconds retry_after) {
  absl::Status status = absl::ResourceExhaustedError(message);
  AddRetryInfo(retry_after, &status);
  AddQuotaFailure(limit_name, message, &status);
  return status;
}

absl::Status QuotaExceeded(const std::string& limit_name, const std::string& message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  google::rpc::ErrorInfo info;
  info.set_reason("TENANT_QUOTA");
  info.set_domain("tessera");
  AddDetail(info, &status);
  AddQuotaFailure(limit_name, message, &status);
  return status;
}

absl::Status Draining() {
  absl::Status status = absl::UnavailableError("the server is draining and takes no new requests");
  AddRetryInfo(kDrainRetryDelay, &status);
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
  const std::string serialized = details.details().empty() ? "" : details.SerializeAsString();
  return {static_cast<grpc::StatusCode>(status.code()), details.message(), serialized};
}

std::optional<std::chrono::milliseconds> RetryPushback(const absl::Status& status) {
  if (status.GetPayload(TypeUrl(google::rpc::ErrorInfo())).has_value()) {
    return std::chrono::milliseconds(-1);
  }
  google::rpc::RetryInfo retry;
  const auto payload = status.GetPayload(TypeUrl(retry));
  if (!payload.has_value() || !retry.ParseFromString(std::string(*payload))) return std::nullopt;
  return std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                   retry.retry_delay().nanos() / 1'000'000);
}

}  // namespace tessera
