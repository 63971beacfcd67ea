#include "tests/server/test_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "server/log.h"

namespace tessera {
namespace {

constexpr std::chrono::seconds kCallTimeout{30};

ServedModel TestModel() {
  return {.name = "alphabet",
          .architecture = "fake",
          .weight_format = "F32",
          .weights_hash = "00ff",
          .fingerprint = "n1-fake-00ff",
          .device = "fake",
          .parameter_count = 26,
          .weights_bytes = 104};
}

}  // namespace

TestServer::TestServer(TestServerOptions options) : executor(options.limits) {
  CHECK(InitLog("text", "error").ok());
  executor.model()->next_token = [](std::span<const TokenId> tokens, int prompt_length) {
    return static_cast<TokenId>('a' + (tokens.size() - prompt_length) % 26);
  };
  options.server.listen = {"127.0.0.1", 0};
  options.server.metrics_listen = {"127.0.0.1", 0};
  absl::StatusOr<std::unique_ptr<Server>> started =
      Server::Start(options.server, {.tokenizer = &tokenizer,
                                     .executor = &executor,
                                     .model = TestModel(),
                                     .on_drain_request = [this] { drain_requested.set_value(); }});
  CHECK(started.ok()) << started.status();
  server = *std::move(started);
  channel =
      grpc::CreateChannel(server->grpc_address().ToString(), grpc::InsecureChannelCredentials());
  generation = v1::GenerationService::NewStub(channel);
  model = v1::ModelService::NewStub(channel);
  control = v1::ControlService::NewStub(channel);
  health = grpc::health::v1::Health::NewStub(channel);
}

TestServer::~TestServer() { executor.Resume(); }

v1::ExplainResponse TestServer::Explain() {
  v1::ExplainResponse response;
  const grpc::Status status = control->Explain(NewContext().get(), v1::ExplainRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::ExplainResponse TestServer::WaitUntilIdle() {
  return ExplainUntil([](const v1::ExplainResponse& s) { return s.sequences_size() == 0; });
}

std::string TestServer::Http(const std::string& request_line) const {
  return FetchHttp(server->metrics_address(), request_line);
}

double TestServer::Metric(const std::string& sample) const {
  const std::string page = Http("GET /metrics");
  const size_t at = page.find("\n" + sample + " ");
  EXPECT_NE(at, std::string::npos) << sample << " is not in\n" << page;
  return at == std::string::npos ? -1.0 : std::stod(page.substr(at + sample.size() + 2));
}

std::string FetchHttp(const HostPort& address, const std::string& request_line) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in target = {};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(address.port));
  inet_pton(AF_INET, address.host.c_str(), &target.sin_addr);
  CHECK_EQ(connect(fd, reinterpret_cast<sockaddr*>(&target), sizeof(target)), 0);
  const std::string request = request_line + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
  CHECK_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

std::unique_ptr<grpc::ClientContext> NewContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  return context;
}

v1::GenerateRequest TextRequest(const std::string& text, int max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_stop()->set_max_tokens(max_tokens);
  return request;
}

v1::GenerateRequest LongRequest() { return TextRequest("long", 30'000); }

std::string Alphabet(int count) {
  std::string letters;
  for (int i = 0; i < count; ++i) letters += static_cast<char>('a' + i % 26);
  return letters;
}

}  // namespace tessera
