#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/server.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/generation.grpc.pb.h"
#include "tests/support/fake_executor.h"
#include "tests/support/table_tokenizer.h"

namespace tessera {

struct TestServerOptions {
  ServerOptions server;
  ExecutorLimits limits{.num_pages = 1024,
                        .page_tokens = 64,
                        .max_batch_tokens = 64,
                        .max_running = 8,
                        .max_context = 32768,
                        .max_samples = 64,
                        .vocab_size = 256};
};

// The daemon on loopback around a fake model that goes on with the alphabet, whatever the prompt:
// its tokens are bytes, "abc..." and again from "a" after "z".
class TestServer {
 public:
  explicit TestServer(TestServerOptions options = {});
  ~TestServer();

  v1::ExplainResponse Explain();
  // Asks until the condition holds.
  template <typename Condition>
  v1::ExplainResponse ExplainUntil(const Condition& condition) {
    v1::ExplainResponse state = Explain();
    while (!condition(state)) state = Explain();
    return state;
  }
  v1::ExplainResponse WaitUntilIdle();

  // The whole HTTP answer to a request line such as "GET /metrics".
  std::string Http(const std::string& request_line) const;
  // The value of a line of /metrics, named with its labels as it stands there.
  double Metric(const std::string& sample) const;

  TableTokenizer tokenizer;
  FakeExecutor executor;
  std::promise<void> drain_requested;
  std::unique_ptr<Server> server;

  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::GenerationService::Stub> generation;
  std::unique_ptr<v1::ModelService::Stub> model;
  std::unique_ptr<v1::ControlService::Stub> control;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

// Sends "GET /path" to a listener on loopback; gives the whole answer.
std::string FetchHttp(const HostPort& address, const std::string& request_line);

// A context that ends before the test's own time limit does.
std::unique_ptr<grpc::ClientContext> NewContext();

v1::GenerateRequest TextRequest(const std::string& text, int max_tokens);
// Runs for many seconds: the fake model reads its whole context back for each token.
v1::GenerateRequest LongRequest();

// The first `count` letters that the fake model says.
std::string Alphabet(int count);

}  // namespace tessera
