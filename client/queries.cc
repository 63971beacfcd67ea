#include "client/queries.h"

#include <iomanip>
#include <iostream>
#include <memory>

#include "client/connection.h"
#include "client/json_output.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {
namespace {

// One call of a service's method. Reports a failure; true if it worked.
template <typename Stub, typename Request, typename Response>
bool Call(const Options& options, std::unique_ptr<Stub> stub,
          grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
          const Request& request, Response* response) {
  grpc::ClientContext context;
  PrepareContext(options.connection, &context);
  const grpc::Status status = (stub.get()->*method)(&context, request, response);
  if (!status.ok()) ReportFailure(status);
  return status.ok();
}

std::unique_ptr<v1::ModelService::Stub> ModelStub(const Options& options) {
  return v1::ModelService::NewStub(Connect(options.connection));
}

std::unique_ptr<v1::ControlService::Stub> ControlStub(const Options& options) {
  return v1::ControlService::NewStub(Connect(options.connection));
}

void PrintExplanation(const v1::ExplainResponse& response) {
  std::cout << "step " << response.step() << ", " << response.num_running() << " running, "
            << response.num_waiting() << " waiting, pages " << response.pages_used() << " used + "
            << response.pages_cached() << " cached of " << response.pages_total() << ", "
            << response.preemptions() << " preemptions\n";
  for (const v1::SequenceState& sequence : response.sequences()) {
    std::cout << "  " << sequence.request_id() << "/" << sequence.index() << "  "
              << v1::SequenceState::State_Name(sequence.state()) << "  "
              << v1::SequenceState::WaitReason_Name(sequence.wait_reason()) << "  "
              << sequence.computed_tokens() << "/" << sequence.prompt_tokens() << "+"
              << sequence.output_tokens() << " tokens, " << sequence.pages() << " pages, waited "
              << std::fixed << std::setprecision(3) << sequence.waited_seconds() << " s\n";
  }
}

Json InfoToJson(const v1::GetModelInfoResponse& model, const v1::GetServerInfoResponse& server) {
  return {{"model",
           {{"name", model.name()},
            {"architecture", model.architecture()},
            {"weights_hash", model.weights_hash()},
            {"weight_format", model.weight_format()},
            {"parameter_count", model.parameter_count()},
            {"weights_bytes", model.weights_bytes()},
            {"vocab_size", model.vocab_size()},
            {"max_context", model.max_context()}}},
          {"server",
           {{"version", server.version()},
            {"fingerprint", server.fingerprint()},
            {"device", server.device()},
            {"max_context", server.max_context()},
            {"max_batch_tokens", server.max_batch_tokens()},
            {"max_running", server.max_running()},
            {"max_waiting", server.max_waiting()},
            {"kv_pages", server.kv_pages()},
            {"kv_page_tokens", server.kv_page_tokens()},
            {"max_message_bytes", server.max_message_bytes()}}}};
}

}  // namespace

int RunTokenize(const Options& options) {
  v1::TokenizeRequest request;
  request.set_text(options.text);
  if (options.parse_special) request.set_parse_special(true);
  v1::TokenizeResponse response;
  if (!Call(options, ModelStub(options), &v1::ModelService::Stub::Tokenize, request, &response)) {
    return 1;
  }
  const std::vector<int32_t> ids(response.token_ids().begin(), response.token_ids().end());
  std::cout << (options.json ? Json{{"token_ids", ids}} : Json(ids)).dump() << '\n';
  return 0;
}

int RunDetokenize(const Options& options) {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Assign(options.token_ids.begin(), options.token_ids.end());
  v1::DetokenizeResponse response;
  if (!Call(options, ModelStub(options), &v1::ModelService::Stub::Detokenize, request, &response)) {
    return 1;
  }
  std::cout << (options.json ? Json{{"text", response.text()}}.dump() : response.text()) << '\n';
  return 0;
}

int RunInfo(const Options& options) {
  v1::GetModelInfoResponse model;
  v1::GetServerInfoResponse server;
  if (!Call(options, ModelStub(options), &v1::ModelService::Stub::GetModelInfo,
            v1::GetModelInfoRequest(), &model) ||
      !Call(options, ModelStub(options), &v1::ModelService::Stub::GetServerInfo,
            v1::GetServerInfoRequest(), &server)) {
    return 1;
  }
  std::cout << InfoToJson(model, server).dump(options.json ? -1 : 2) << '\n';
  return 0;
}

int RunExplain(const Options& options) {
  v1::ExplainRequest request;
  if (!options.request_id.empty()) request.set_request_id(options.request_id);
  v1::ExplainResponse response;
  if (!Call(options, ControlStub(options), &v1::ControlService::Stub::Explain, request,
            &response)) {
    return 1;
  }
  if (options.json) {
    std::cout << ExplanationToJson(response).dump() << '\n';
  } else {
    PrintExplanation(response);
  }
  return 0;
}

int RunAbort(const Options& options) {
  v1::AbortRequest request;
  request.set_request_id(options.request_id);
  v1::AbortResponse response;
  return Call(options, ControlStub(options), &v1::ControlService::Stub::Abort, request, &response)
             ? 0
             : 1;
}

int RunDrain(const Options& options) {
  v1::DrainRequest request;
  if (options.drain_timeout_seconds) request.set_timeout_seconds(*options.drain_timeout_seconds);
  v1::DrainResponse response;
  if (!Call(options, ControlStub(options), &v1::ControlService::Stub::Drain, request, &response)) {
    return 1;
  }
  std::cout << response.unfinished_requests() << " requests to finish\n";
  return 0;
}

}  // namespace tessera
