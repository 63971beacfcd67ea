#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/server/test_server.h"

// What clients may get wrong: each gets INVALID_ARGUMENT, the name of the field, what was expected
// and what came, in the message and in a BadRequest detail.

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct BadInput {
  const char* name;
  std::function<void(v1::GenerateRequest*)> spoil;
  std::string field;
  std::string expected;  // after "expected "
  std::string actual;    // after "got "
};

std::function<void(v1::GenerateRequest*)> Sampling(void (v1::SamplingParams::*set)(float),
                                                   float value) {
  return [=](v1::GenerateRequest* request) { (request->mutable_sampling()->*set)(value); };
}

std::function<void(v1::GenerateRequest*)> Bias(int32_t token, float value) {
  return [=](v1::GenerateRequest* request) {
    (*request->mutable_sampling()->mutable_logit_bias())[token] = value;
  };
}

std::function<void(v1::GenerateRequest*)> StopStrings(int count, size_t bytes) {
  return [=](v1::GenerateRequest* request) {
    for (int i = 0; i < count; ++i) {
      request->mutable_stop()->add_stop_strings(std::string(bytes, 's'));
    }
  };
}

std::function<void(v1::GenerateRequest*)> StopIds(int count, int32_t token) {
  return [=](v1::GenerateRequest* request) {
    for (int i = 0; i < count; ++i) request->mutable_stop()->add_stop_token_ids(token);
  };
}

std::function<void(v1::GenerateRequest*)> Ids(std::vector<int32_t> ids) {
  return [=](v1::GenerateRequest* request) {
    request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  };
}

std::vector<BadInput> BadInputs() {
  using Params = v1::SamplingParams;
  using Req = v1::GenerateRequest;
  const std::string token = "a token id of 0 to 255";
  return {
      {"NoPrompt", [](Req* r) { r->clear_prompt(); }, "prompt", "text or token_ids", "nothing"},
      {"EmptyText", [](Req* r) { r->set_text(""); }, "prompt", "text or token_ids", "nothing"},
      {"EmptyIds", Ids({}), "prompt", "text or token_ids", "nothing"},
      {"LongText", [](Req* r) { r->set_text(std::string(1024, 'x')); }, "prompt",
       "at most 1023 tokens", "1024 tokens"},
      {"HugeText", [](Req* r) { r->set_text(std::string(2'000'000, 'x')); }, "prompt",
       "at most 1023 tokens", "a text of 2000000 bytes"},
      {"LongIds", Ids(std::vector<int32_t>(5000, 1)), "prompt", "at most 1023 tokens",
       "5000 tokens"},
      {"NegativeId", Ids({1, -1}), "token_ids.ids[1]", token, "-1"},
      {"UnknownId", Ids({256}), "token_ids.ids[0]", token, "256"},
      {"TemperatureNan", Sampling(&Params::set_temperature, kNan), "sampling.temperature",
       "a finite number >= 0", "nan"},
      {"TemperatureInfinite", Sampling(&Params::set_temperature, kInfinity), "sampling.temperature",
       "a finite number >= 0", "inf"},
      {"TemperatureNegative", Sampling(&Params::set_temperature, -0.5f), "sampling.temperature",
       "a finite number >= 0", "-0.5"},
      {"TopKBelow", [](Req* r) { r->mutable_sampling()->set_top_k(-2); }, "sampling.top_k", ">= -1",
       "-2"},
      {"TopPZero", Sampling(&Params::set_top_p, 0.0f), "sampling.top_p", "a number in (0, 1]", "0"},
      {"TopPAbove", Sampling(&Params::set_top_p, 1.5f), "sampling.top_p", "a number in (0, 1]",
       "1.5"},
      {"TopPNan", Sampling(&Params::set_top_p, kNan), "sampling.top_p", "a number in (0, 1]",
       "nan"},
      {"MinPBelow", Sampling(&Params::set_min_p, -0.25f), "sampling.min_p", "a number in [0, 1]",
       "-0.25"},
      {"MinPAbove", Sampling(&Params::set_min_p, 2.0f), "sampling.min_p", "a number in [0, 1]",
       "2"},
      {"RepetitionZero", Sampling(&Params::set_repetition_penalty, 0.0f),
       "sampling.repetition_penalty", "a number in (0, 10]", "0"},
      {"RepetitionAbove", Sampling(&Params::set_repetition_penalty, 10.5f),
       "sampling.repetition_penalty", "a number in (0, 10]", "10.5"},
      {"FrequencyAbove", Sampling(&Params::set_frequency_penalty, 2.5f),
       "sampling.frequency_penalty", "a number in [-2, 2]", "2.5"},
      {"PresenceBelow", Sampling(&Params::set_presence_penalty, -3.0f), "sampling.presence_penalty",
       "a number in [-2, 2]", "-3"},
      {"PresenceNan", Sampling(&Params::set_presence_penalty, kNan), "sampling.presence_penalty",
       "a number in [-2, 2]", "nan"},
      {"BiasHuge", Bias(5, 1e6f), "sampling.logit_bias[5]", "a number in [-100, 100]", "1000000"},
      {"BiasNan", Bias(5, kNan), "sampling.logit_bias[5]", "a number in [-100, 100]", "nan"},
      {"BiasUnknownToken", Bias(-3, 1.0f), "sampling.logit_bias[-3]", token, "-3"},
      {"TooManyBiases",
       [](Req* r) {
         for (int i = 0; i < 1025; ++i) (*r->mutable_sampling()->mutable_logit_bias())[i] = 1.0f;
       },
       "sampling.logit_bias", "at most 1024 entries", "1025"},
      {"NZero", [](Req* r) { r->set_n(0); }, "n", "1 to 64", "0"},
      {"NAbove", [](Req* r) { r->set_n(65); }, "n", "1 to 64", "65"},
      {"NHuge", [](Req* r) { r->set_n(4294967295u); }, "n", "1 to 64", "4294967295"},
      {"LogprobsAbove", [](Req* r) { r->set_logprobs(21); }, "logprobs", "0 to 20", "21"},
      {"PromptLogprobsAbove", [](Req* r) { r->set_prompt_logprobs(21); }, "prompt_logprobs",
       "0 to 20", "21"},
      {"MaxTokensZero", [](Req* r) { r->mutable_stop()->set_max_tokens(0); }, "stop.max_tokens",
       "1 to 1018", "0"},
      {"MaxTokensAbove", [](Req* r) { r->mutable_stop()->set_max_tokens(1019); }, "stop.max_tokens",
       "1 to 1018", "1019"},
      {"MinTokensAbove", [](Req* r) { r->mutable_stop()->set_min_tokens(5); }, "stop.min_tokens",
       "0 to 4", "5"},
      {"StopEmpty", StopStrings(1, 0), "stop.stop_strings[0]", "1 to 256 bytes", "0 bytes"},
      {"StopHuge", StopStrings(1, 1'000'000), "stop.stop_strings[0]", "1 to 256 bytes",
       "1000000 bytes"},
      {"TooManyStops", StopStrings(17, 3), "stop.stop_strings", "at most 16 strings", "17"},
      {"TooManyStopIds", StopIds(65, 3), "stop.stop_token_ids", "at most 64 tokens", "65"},
      {"UnknownStopId", StopIds(1, -7), "stop.stop_token_ids[0]", token, "-7"},
      {"PriorityHuge", [](Req* r) { r->set_priority(2'000'000'000); }, "priority",
       "-1000000 to 1000000", "2000000000"},
      {"TextNotUtf8", [](Req* r) { r->set_text("ab\xff"); }, "request",
       "a tessera.v1.GenerateRequest with UTF-8", "9 bytes that are none"},
      {"StopNotUtf8", [](Req* r) { r->mutable_stop()->add_stop_strings("\xC0\xAF"); }, "request",
       "a tessera.v1.GenerateRequest with UTF-8", "16 bytes that are none"},
  };
}

void ExpectRefused(const grpc::Status& status, const BadInput& bad) {
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr(bad.field + ": expected " + bad.expected));
  EXPECT_THAT(status.error_message(), HasSubstr(", got " + bad.actual));
  google::rpc::Status details;
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  EXPECT_EQ(bad_request.field_violations(0).field(), bad.field);
}

TEST(BadInputTest, EachIsRefusedWithWhatWasExpectedAndWhatCame) {
  TestServerOptions options;
  options.limits.max_context = 1024;
  TestServer test(options);
  for (const BadInput& bad : BadInputs()) {
    SCOPED_TRACE(bad.name);
    v1::GenerateRequest request = TextRequest("hello!", 4);
    bad.spoil(&request);
    v1::GenerateResponse response;
    ExpectRefused(test.generation->Generate(NewContext().get(), request, &response), bad);
    const auto context = NewContext();
    const auto reader = test.generation->GenerateStream(context.get(), request);
    EXPECT_FALSE(reader->Read(&response));
    ExpectRefused(reader->Finish(), bad);
  }
  EXPECT_EQ(test.Metric("tessera_requests_rejected_total{reason=\"invalid\"}"),
            2.0 * static_cast<double>(BadInputs().size()));

  v1::GenerateResponse response;
  EXPECT_TRUE(
      test.generation->Generate(NewContext().get(), TextRequest("hello!", 4), &response).ok());
  EXPECT_EQ(response.outputs(0).text(), "abcd");
}

TEST(BadInputTest, AnotherModelsNameIsNotFound) {
  TestServer test;
  v1::GenerateRequest request = TextRequest("hello", 4);
  request.set_model(std::string(5000, 'm'));
  v1::GenerateResponse response;
  const grpc::Status status = test.generation->Generate(NewContext().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("expected \"alphabet\", got \"mmm"));
  EXPECT_LT(status.error_message().size(), 200u);
}

TEST(BadInputTest, TextToTokenizeMustBeUtf8) {
  TestServer test;
  v1::TokenizeRequest request;
  request.set_text("\xff");
  v1::TokenizeResponse response;
  const grpc::Status status = test.model->Tokenize(NewContext().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(BadInputTest, UnknownTokensToDetokenizeAreRefused) {
  TestServer test;
  v1::DetokenizeRequest request;
  request.add_token_ids('a');
  request.add_token_ids(1000);
  v1::DetokenizeResponse response;
  const grpc::Status status = test.model->Detokenize(NewContext().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              HasSubstr("token_ids[1]: expected a token id of 0 to 255, got 1000"));
}

TEST(BadInputTest, DeadlineShorterThanTheQueueIsRefusedOrPasses) {
  TestServerOptions options;
  options.limits.max_running = 1;
  TestServer test(options);
  test.executor.Pause();
  const auto context = NewContext();
  const auto running = test.generation->GenerateStream(context.get(), LongRequest());
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  grpc::ClientContext hurried;
  hurried.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(test.generation->Generate(&hurried, TextRequest("y", 5), &message).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  test.executor.Resume();
  context->TryCancel();
  test.WaitUntilIdle();
}

}  // namespace
}  // namespace tessera
