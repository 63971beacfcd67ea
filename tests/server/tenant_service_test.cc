#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "tests/server/test_server.h"
#include "tests/support/temp_file.h"

namespace tessera {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr char kKey[] = "one";

std::string Sha256Hex(std::string_view text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(),
         reinterpret_cast<uint8_t*>(digest.data()));
  return absl::BytesToHexString(digest);
}

// A server that knows one tenant, "a", by kKey.
class TenantServiceTest : public testing::Test {
 protected:
  void Start(const std::string& limits) {
    keys_.emplace("tenant a " + limits + "\nkey " + Sha256Hex(kKey) + " a\n");
    options_.server.api_keys_path = keys_->path();
    test_.emplace(options_);
  }

  static std::unique_ptr<grpc::ClientContext> ContextOf(const std::string& key) {
    auto context = NewContext();
    context->AddMetadata("authorization", "Bearer " + key);
    return context;
  }

  grpc::Status Generate(const v1::GenerateRequest& request) {
    v1::GenerateResponse response;
    return test_->generation->Generate(ContextOf(kKey).get(), request, &response);
  }

  double NumRejected(const std::string& reason) const {
    return test_->Metric("tessera_requests_rejected_total{reason=\"" + reason + "\"}");
  }

  TestServerOptions options_;
  std::optional<TempFile> keys_;
  std::optional<TestServer> test_;
};

TEST_F(TenantServiceTest, AFullQueueCostsNoQuota) {
  options_.limits.max_running = 1;
  options_.server.max_waiting = 1;
  Start("tokens_per_minute=500 concurrent_sequences=3");
  const v1::GenerateRequest request = TextRequest(std::string(200, 'x'), 2);

  test_->executor.Pause();
  const auto running_context = ContextOf(kKey), waiting_context = ContextOf(kKey);
  v1::GenerateResponse message;
  const auto running = test_->generation->GenerateStream(running_context.get(), request);
  ASSERT_TRUE(running->Read(&message));
  test_->executor.AwaitSteps(1);
  const auto waiting = test_->generation->GenerateStream(waiting_context.get(), request);
  ASSERT_TRUE(waiting->Read(&message));
  for (int i = 0; i < 10; ++i) {
    const grpc::Status status = Generate(request);
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("waiting requests"));
  }
  EXPECT_EQ(NumRejected("queue_requests"), 10);

  test_->executor.Resume();
  for (auto* stream : {running.get(), waiting.get()}) {
    while (stream->Read(&message)) continue;
    EXPECT_TRUE(stream->Finish().ok());
  }
  const grpc::Status status = Generate(request);
  EXPECT_TRUE(status.ok()) << "96 tokens are left: " << status.error_message();
  EXPECT_EQ(NumRejected("quota"), 0);
}

TEST_F(TenantServiceTest, WhatCanNeverFitCostsNoQuota) {
  options_.limits.num_pages = 2;  // 128 tokens
  Start("tokens_per_minute=600");
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Generate(TextRequest(std::string(500, 'x'), 1)).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
  const grpc::Status status = Generate(TextRequest("x", 1));
  EXPECT_TRUE(status.ok()) << status.error_message();
}

}  // namespace
}  // namespace tessera
