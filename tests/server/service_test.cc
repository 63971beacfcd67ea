#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <thread>

#include "base/philox.h"
#include "server/response_builder.h"
#include "tests/server/test_server.h"

namespace tessera {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

using Reader = std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>;

// One GenerateStream call and its context.
struct Stream {
  Stream(TestServer* test, const v1::GenerateRequest& request) : context(NewContext()) {
    reader = test->generation->GenerateStream(context.get(), request);
  }

  v1::GenerateResponse Next() {
    v1::GenerateResponse message;
    EXPECT_TRUE(reader->Read(&message)) << reader->Finish().error_message();
    return message;
  }
  // The sum of what is left.
  v1::GenerateResponse Rest(v1::GenerateResponse sum = {}) {
    for (v1::GenerateResponse message; reader->Read(&message);) {
      if (sum.outputs().empty()) {
        sum = message;
      } else {
        MergeResponse(std::move(message), &sum);
      }
    }
    return sum;
  }
  grpc::Status Finish() { return reader->Finish(); }

  std::unique_ptr<grpc::ClientContext> context;
  Reader reader;
};

v1::GenerateResponse Generate(TestServer* test, const v1::GenerateRequest& request) {
  v1::GenerateResponse response;
  const grpc::Status status = test->generation->Generate(NewContext().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

grpc::Status GenerateStatus(TestServer* test, const v1::GenerateRequest& request) {
  v1::GenerateResponse response;
  return test->generation->Generate(NewContext().get(), request, &response);
}

template <typename Detail>
std::optional<Detail> FindDetail(const grpc::Status& status) {
  google::rpc::Status details;
  Detail detail;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& any : details.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

void ClearTimes(v1::GenerateResponse* response) {
  response->clear_request_id();
  for (v1::Output& output : *response->mutable_outputs()) output.clear_timings();
}

TEST(GenerateTest, AnswersWithTextTokensUsageAndIdentity) {
  TestServer test;
  const v1::GenerateResponse response = Generate(&test, TextRequest("hello", 5));
  EXPECT_EQ(response.model(), "alphabet");
  EXPECT_EQ(response.fingerprint(), "n1-fake-00ff");
  EXPECT_EQ(response.request_id().size(), 32u);
  ASSERT_EQ(response.outputs_size(), 1);
  const v1::Output& output = response.outputs(0);
  EXPECT_EQ(output.text(), "abcde");
  EXPECT_THAT(output.token_ids(), testing::ElementsAre('a', 'b', 'c', 'd', 'e'));
  EXPECT_EQ(output.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(output.usage().prompt_tokens(), 5u);
  EXPECT_EQ(output.usage().completion_tokens(), 5u);
  EXPECT_GT(output.timings().first_token_seconds(), 0.0);
  EXPECT_LE(output.seed(), kSeedMask);
}

TEST(GenerateTest, RequestIdsAndDrawnSeedsDiffer) {
  TestServer test;
  const v1::GenerateResponse first = Generate(&test, TextRequest("a", 1));
  const v1::GenerateResponse second = Generate(&test, TextRequest("a", 1));
  EXPECT_NE(first.request_id(), second.request_id());
  EXPECT_NE(first.outputs(0).seed(), second.outputs(0).seed());
}

TEST(GenerateTest, StreamsMessagesSumToTheUnaryAnswer) {
  TestServer test;
  v1::GenerateRequest request = TextRequest(std::string(300, 'p'), 40);
  request.set_n(3);
  request.set_logprobs(2);
  request.set_prompt_logprobs(1);
  request.set_echo(true);
  request.mutable_sampling()->set_seed(7);
  request.mutable_stop()->add_stop_strings("xyz");

  v1::GenerateResponse whole = Generate(&test, request);
  Stream stream(&test, request);
  v1::GenerateResponse sum = stream.Rest();
  EXPECT_TRUE(stream.Finish().ok());

  EXPECT_EQ(whole.outputs_size(), 3);
  EXPECT_EQ(whole.outputs(0).text(), std::string(300, 'p') + Alphabet(23));
  EXPECT_EQ(whole.outputs(0).stop_string(), "xyz");
  EXPECT_EQ(whole.outputs(0).token_ids_size(), 26);  // up to the one that completed the match
  EXPECT_EQ(whole.outputs(0).logprobs_size(), 26);
  EXPECT_EQ(whole.outputs(2).seed(), ForkSeed(7, 2));
  EXPECT_EQ(whole.prompt_logprobs_size(), 300);
  EXPECT_EQ(whole.prompt_logprobs(0).entries_size(), 0);
  EXPECT_GE(whole.prompt_logprobs(1).entries_size(), 1);

  ClearTimes(&whole);
  ClearTimes(&sum);
  for (v1::GenerateResponse* response : {&whole, &sum}) {
    for (v1::Output& output : *response->mutable_outputs())
      output.mutable_usage()->clear_cached_tokens();
  }
  EXPECT_EQ(sum.SerializeAsString(), whole.SerializeAsString());
}

TEST(GenerateTest, FirstMessageNamesTheRequestBeforeAnyToken) {
  TestServer test;
  test.executor.Pause();
  v1::GenerateRequest request = TextRequest("x", 3);
  request.mutable_sampling()->set_seed(99);
  Stream stream(&test, request);
  const v1::GenerateResponse first = stream.Next();
  EXPECT_EQ(first.request_id().size(), 32u);
  EXPECT_EQ(first.fingerprint(), "n1-fake-00ff");
  EXPECT_EQ(first.outputs(0).seed(), 99u);
  EXPECT_EQ(first.outputs(0).token_ids_size(), 0);
  test.executor.Resume();
  EXPECT_EQ(stream.Rest(first).outputs(0).text(), "abc");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(GenerateTest, AnswerBeyondTheMessageLimitIsRefusedUnaryAndStreamed) {
  TestServerOptions options;
  options.server.max_message_bytes = 4096;
  TestServer test(options);
  v1::GenerateRequest request = TextRequest("x", 400);
  request.set_logprobs(5);
  const grpc::Status status = GenerateStatus(&test, request);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("4096"));
  test.WaitUntilIdle();
}

TEST(GenerateTest, RequestBeyondTheMessageLimitIsRefused) {
  TestServerOptions options;
  options.server.max_message_bytes = 4096;
  TestServer test(options);
  EXPECT_EQ(GenerateStatus(&test, TextRequest(std::string(5000, 'x'), 1)).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
}

TEST(EndTest, ClientCancelFreesTheSequence) {
  TestServer test;
  Stream stream(&test, LongRequest());
  stream.Next();
  stream.context->TryCancel();
  stream.Rest();
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_EQ(test.WaitUntilIdle().pages_used(), 0u);
}

TEST(EndTest, DeadlineEndsARunningRequest) {
  TestServer test;
  test.executor.Pause();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  v1::GenerateResponse response;
  const grpc::Status status = test.generation->Generate(&context, LongRequest(), &response);
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  test.executor.Resume();
  EXPECT_EQ(test.WaitUntilIdle().pages_used(), 0u);
}

TEST(EndTest, FullQueueIsRefusedWithARetryHint) {
  TestServerOptions options;
  options.limits.max_running = 1;
  options.server.max_waiting = 1;
  TestServer test(options);
  test.executor.Pause();
  Stream running(&test, TextRequest("x", 10));
  running.Next();
  test.executor.AwaitSteps(1);
  Stream waiting(&test, TextRequest("x", 10));
  waiting.Next();

  const auto context = NewContext();
  v1::GenerateResponse response;
  const grpc::Status status =
      test.generation->Generate(context.get(), TextRequest("x", 10), &response);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("at most 1"));
  const auto retry = FindDetail<google::rpc::RetryInfo>(status);
  ASSERT_TRUE(retry.has_value());
  EXPECT_GT(retry->retry_delay().seconds() + retry->retry_delay().nanos(), 0);
  EXPECT_EQ(FindDetail<google::rpc::QuotaFailure>(status)->violations(0).subject(),
            "waiting requests");
  const auto& trailers = context->GetServerTrailingMetadata();
  const auto pushback = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, trailers.end());
  EXPECT_GT(std::stoi(std::string(pushback->second.data(), pushback->second.size())), 0);
  EXPECT_EQ(test.Metric("tessera_requests_rejected_total{reason=\"queue_requests\"}"), 1);

  test.executor.Resume();
  EXPECT_EQ(waiting.Rest().outputs(0).token_ids_size(), 10);
}

TEST(EndTest, WhatCanNeverFitIsRefused) {
  TestServerOptions options;
  options.limits.num_pages = 2;  // 128 tokens
  TestServer test(options);
  const grpc::Status status = GenerateStatus(&test, TextRequest("x", 500));
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_TRUE(FindDetail<google::rpc::BadRequest>(status).has_value());
}

TEST(EndTest, AbortEndsTheRequestOfAnotherClient) {
  TestServer test;
  Stream stream(&test, LongRequest());
  v1::AbortRequest abort;
  abort.set_request_id(stream.Next().request_id());
  v1::AbortResponse nothing;
  ASSERT_TRUE(test.control->Abort(NewContext().get(), abort, &nothing).ok());
  stream.Rest();
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::ABORTED);
  test.WaitUntilIdle();
  EXPECT_EQ(test.control->Abort(NewContext().get(), abort, &nothing).error_code(),
            StatusCode::NOT_FOUND);
}

TEST(EndTest, LogitsThatAreNotFiniteEndTheRequestAlone) {
  TestServer test;
  test.executor.model()->non_finite_one_in = 1;
  const grpc::Status status = GenerateStatus(&test, TextRequest("x", 10));
  EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("finite"));
  EXPECT_EQ(test.WaitUntilIdle().pages_used(), 0u);
  const std::string labels = "{engine=\"0\",finished_reason=\"error\",model_name=\"alphabet\"}";
  EXPECT_EQ(test.Metric("vllm:request_success_total" + labels), 1);
}

TEST(EndTest, SequenceWithoutATokenLeftEndsTheRequest) {
  TestServer test;
  test.executor.model()->next_token = [](std::span<const TokenId> tokens, int prompt_length) {
    return tokens.size() < static_cast<size_t>(prompt_length) + 3 ? 'a' : -1;
  };
  EXPECT_EQ(GenerateStatus(&test, TextRequest("x", 10)).error_code(),
            StatusCode::FAILED_PRECONDITION);
}

TEST(TenantTest, TrustedMetadataNamesTheTenant) {
  TestServerOptions options;
  options.server.tenant_metadata_key = "x-tenant";
  TestServer test(options);
  test.executor.Pause();
  const auto context = NewContext();
  context->AddMetadata("x-tenant", "acme");
  const auto reader = test.generation->GenerateStream(context.get(), TextRequest("x", 2));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  test.executor.Resume();
  while (reader->Read(&message)) continue;
  EXPECT_TRUE(reader->Finish().ok());

  const auto bad_context = NewContext();
  bad_context->AddMetadata("x-tenant", std::string(129, 't'));
  EXPECT_EQ(
      test.generation->Generate(bad_context.get(), TextRequest("x", 2), &message).error_code(),
      StatusCode::INVALID_ARGUMENT);
}

TEST(ControlTest, ExplainNamesWhatRunsAndWhatWaits) {
  TestServerOptions options;
  options.limits.max_running = 1;
  TestServer test(options);
  Stream running(&test, LongRequest());
  const std::string running_id = running.Next().request_id();
  Stream waiting(&test, LongRequest());
  const std::string waiting_id = waiting.Next().request_id();

  const v1::ExplainResponse state = test.ExplainUntil([](const v1::ExplainResponse& s) {
    return s.sequences_size() == 2 && s.sequences(0).output_tokens() > 0 &&
           s.sequences(1).wait_reason() != v1::SequenceState::WAIT_REASON_UNSPECIFIED;
  });
  ASSERT_EQ(state.sequences_size(), 2);
  EXPECT_EQ(state.sequences(0).request_id(), running_id);
  EXPECT_GT(state.sequences(0).pages(), 0u);
  EXPECT_EQ(state.sequences(1).request_id(), waiting_id);
  EXPECT_EQ(state.sequences(1).state(), v1::SequenceState::STATE_WAITING);
  EXPECT_EQ(state.sequences(1).wait_reason(), v1::SequenceState::WAIT_REASON_SLOTS);
  EXPECT_EQ(state.num_running(), 1u);
  EXPECT_EQ(state.num_waiting(), 1u);
  EXPECT_EQ(state.pages_total(), 1024u);
  running.context->TryCancel();
  waiting.context->TryCancel();
  test.WaitUntilIdle();
}

TEST(ControlTest, DrainRequestReachesTheOwnerOnce) {
  TestServer test;
  v1::DrainResponse response;
  v1::DrainRequest bad;
  bad.set_timeout_seconds(-1);
  EXPECT_EQ(test.control->Drain(NewContext().get(), bad, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
  for (int i = 0; i < 2; ++i) {  // a second promise would abort the test
    EXPECT_TRUE(test.control->Drain(NewContext().get(), v1::DrainRequest(), &response).ok());
  }
  test.drain_requested.get_future().wait();
}

TEST(DrainTest, OpenRequestsFinishNewOnesAreRefusedAndWatchersHear) {
  TestServer test;
  const auto watch_context = NewContext();
  grpc::health::v1::HealthCheckRequest whole;
  const auto watch = test.health->Watch(watch_context.get(), whole);
  grpc::health::v1::HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING);

  test.executor.Pause();
  Stream open(&test, TextRequest("x", 20));
  const v1::GenerateResponse first = open.Next();
  std::thread drain([&] { test.server->Drain(); });
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  EXPECT_THAT(test.Http("GET /readyz"), HasSubstr("503"));
  EXPECT_THAT(test.Http("GET /healthz"), HasSubstr("200 OK"));

  grpc::health::v1::HealthCheckRequest model_service;
  model_service.set_service("tessera.v1.ModelService");
  ASSERT_TRUE(test.health->Check(NewContext().get(), model_service, &health).ok());
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  const grpc::Status refused = GenerateStatus(&test, TextRequest("x", 1));
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("draining"));

  test.executor.Resume();
  EXPECT_EQ(open.Rest(first).outputs(0).text(), Alphabet(20));
  EXPECT_TRUE(open.Finish().ok());
  while (watch->Read(&health)) continue;
  EXPECT_EQ(watch->Finish().error_code(), StatusCode::UNAVAILABLE);
  drain.join();
}

TEST(HealthTest, WatchesThatAreTooLongAreRefused) {
  TestServer test;
  const auto end_of_watch = [&](size_t name_bytes) {
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(std::string(name_bytes, 'x'));
    const auto context = NewContext();
    const auto watch = test.health->Watch(context.get(), request);
    grpc::health::v1::HealthCheckResponse response;
    if (watch->Read(&response)) context->TryCancel();
    return watch->Finish();
  };
  EXPECT_EQ(end_of_watch(1000).error_code(), StatusCode::CANCELLED) << "it is open";
  const grpc::Status status = end_of_watch(2000);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("expected at most 1024 bytes, got 2003"));
}

TEST(DrainTest, WatchersHearOfItWhileCallsAreStillAnswered) {
  TestServer test;
  const auto watch_context = NewContext();
  const auto watch = test.health->Watch(watch_context.get(), {});
  grpc::health::v1::HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  std::thread drain([&] { test.server->Drain(); });  // nothing is open: done at once
  ASSERT_TRUE(watch->Read(&health));
  const grpc::Status refused = GenerateStatus(&test, TextRequest("x", 1));
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("draining"));
  drain.join();
}

TEST(DrainTest, TimeoutGivesEveryStreamAStatus) {
  TestServerOptions options;
  options.server.drain_timeout_seconds = 0.0;
  TestServer test(options);
  Stream first(&test, LongRequest());
  Stream second(&test, LongRequest());
  first.Next();
  second.Next();
  std::thread drain([&] { test.server->Drain(); });
  for (Stream* stream : {&first, &second}) {
    stream->Rest();
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE) << status.error_message();
  }
  drain.join();
}

TEST(DrainTest, ReaderThatNeverReadsDoesNotHoldTheDaemon) {
  TestServerOptions options;
  options.server.drain_timeout_seconds = 0.0;
  TestServer test(options);
  v1::GenerateRequest request = LongRequest();
  request.set_logprobs(20);
  request.set_n(2);
  Stream stalled(&test, request);
  stalled.Next();
  test.ExplainUntil([](const v1::ExplainResponse& s) {
    return std::any_of(s.sequences().begin(), s.sequences().end(), [](const auto& sequence) {
      return sequence.state() == v1::SequenceState::STATE_PARKED;
    });
  });
  test.server->Drain();
}

TEST(HealthTest, KnowsItsServices) {
  TestServer test;
  grpc::health::v1::HealthCheckRequest request;
  grpc::health::v1::HealthCheckResponse response;
  for (const char* service : {"", "tessera.v1.GenerationService", "tessera.v1.ModelService",
                              "tessera.v1.ControlService"}) {
    request.set_service(service);
    ASSERT_TRUE(test.health->Check(NewContext().get(), request, &response).ok()) << service;
    EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING) << service;
  }
  request.set_service("nobody");
  EXPECT_EQ(test.health->Check(NewContext().get(), request, &response).error_code(),
            StatusCode::NOT_FOUND);
  const auto context = NewContext();
  const auto watch = test.health->Watch(context.get(), request);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVICE_UNKNOWN);
  context->TryCancel();
}

// Asks reflection for the services: ServerReflectionRequest.list_services is field 7, a string.
grpc::Status ListServices(TestServer* test, std::string* answer) {
  grpc::GenericStub stub(test->channel);
  grpc::CompletionQueue queue;
  const auto context = NewContext();
  const auto call = stub.PrepareCall(
      context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const grpc::Slice request(std::string("\x3a\x00", 2));
  grpc::ByteBuffer received;
  call->StartCall(nullptr);
  wait();
  call->Write(grpc::ByteBuffer(&request, 1), nullptr);
  wait();
  call->Read(&received, nullptr);
  if (wait()) {
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(received.Dump(&slices).ok());
    for (const grpc::Slice& slice : slices) answer->append(slice.begin(), slice.end());
    context->TryCancel();
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  return status;
}

TEST(ReflectionTest, ListsTheServicesUnlessSwitchedOff) {
  TestServer test;
  std::string answer;
  ListServices(&test, &answer);
  EXPECT_THAT(answer, HasSubstr("tessera.v1.GenerationService"));
  EXPECT_THAT(answer, HasSubstr("grpc.health.v1.Health"));

  TestServerOptions options;
  options.server.reflection = false;
  TestServer closed(options);
  answer.clear();
  EXPECT_EQ(ListServices(&closed, &answer).error_code(), StatusCode::UNIMPLEMENTED);
}

TEST(ModelServiceTest, SaysWhatIsServed) {
  TestServer test;
  v1::GetModelInfoResponse model;
  ASSERT_TRUE(test.model->GetModelInfo(NewContext().get(), {}, &model).ok());
  EXPECT_EQ(model.name(), "alphabet");
  EXPECT_EQ(model.vocab_size(), 256u);
  EXPECT_EQ(model.max_context(), 32768u);
  v1::GetServerInfoResponse server;
  ASSERT_TRUE(test.model->GetServerInfo(NewContext().get(), {}, &server).ok());
  EXPECT_EQ(server.kv_pages(), 1024u);
  EXPECT_EQ(server.max_running(), 8u);
  EXPECT_EQ(server.fingerprint(), "n1-fake-00ff");
}

TEST(ModelServiceTest, TokenizesAndBack) {
  TestServer test;
  v1::TokenizeRequest request;
  request.set_text("h\xC3\xA9");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(test.model->Tokenize(NewContext().get(), request, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), testing::ElementsAre('h', 0xC3, 0xA9));
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  back.add_token_ids(0xC3);
  v1::DetokenizeResponse text;
  ASSERT_TRUE(test.model->Detokenize(NewContext().get(), back, &text).ok());
  EXPECT_EQ(text.text(), "h\xC3\xA9\xEF\xBF\xBD");
}

}  // namespace
}  // namespace tessera
