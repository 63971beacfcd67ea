#include "server/model_service.h"

#include <string>
#include <vector>

#include "base/status.h"
#include "server/raw_message.h"
#include "server/status_details.h"
#include "server/version.h"

namespace tessera {
namespace {

grpc::ServerUnaryReactor* FinishedWith(const absl::Status& status,
                                       grpc::CallbackServerContext* context) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status TokenizeBytes(const RequestParser& parser, const grpc::ByteBuffer& request,
                           grpc::ByteBuffer* response) {
  v1::TokenizeRequest proto;
  RETURN_IF_ERROR(ParseMessage(request, &proto));
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, parser.Tokenize(proto));
  v1::TokenizeResponse answer;
  answer.mutable_token_ids()->Add(tokens.begin(), tokens.end());
  *response = SerializeMessage(answer);
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelService::CheckCaller(const grpc::CallbackServerContext& context) const {
  return serving_->authenticator->Identify(context).status();
}

grpc::ServerUnaryReactor* ModelService::Tokenize(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) {
  absl::Status status = CheckCaller(*context);
  if (status.ok()) status = TokenizeBytes(*serving_->parser, *request, response);
  return FinishedWith(status, context);
}

grpc::ServerUnaryReactor* ModelService::Detokenize(grpc::CallbackServerContext* context,
                                                   const v1::DetokenizeRequest* request,
                                                   v1::DetokenizeResponse* response) {
  if (const absl::Status status = CheckCaller(*context); !status.ok()) {
    return FinishedWith(status, context);
  }
  const absl::StatusOr<std::string> text = serving_->parser->Detokenize(*request);
  if (text.ok()) response->set_text(*text);
  return FinishedWith(text.status(), context);
}

grpc::ServerUnaryReactor* ModelService::GetModelInfo(grpc::CallbackServerContext* context,
                                                     const v1::GetModelInfoRequest*,
                                                     v1::GetModelInfoResponse* response) {
  if (const absl::Status status = CheckCaller(*context); !status.ok()) {
    return FinishedWith(status, context);
  }
  const ServedModel& model = serving_->model;
  const std::span<const TokenId> end_tokens = serving_->tokenizer->end_tokens();
  response->set_name(model.name);
  response->set_architecture(model.architecture);
  response->set_weights_hash(model.weights_hash);
  response->set_parameter_count(model.parameter_count);
  response->set_weights_bytes(model.weights_bytes);
  response->set_weight_format(model.weight_format);
  response->set_vocab_size(serving_->tokenizer->vocab_size());
  response->set_max_context(serving_->engine->limits().max_context);
  response->mutable_end_token_ids()->Add(end_tokens.begin(), end_tokens.end());
  response->set_chat_template(std::string(serving_->tokenizer->chat_template()));
  return FinishedWith(absl::OkStatus(), context);
}

grpc::ServerUnaryReactor* ModelService::GetServerInfo(grpc::CallbackServerContext* context,
                                                      const v1::GetServerInfoRequest*,
                                                      v1::GetServerInfoResponse* response) {
  if (const absl::Status status = CheckCaller(*context); !status.ok()) {
    return FinishedWith(status, context);
  }
  const ExecutorLimits& limits = serving_->engine->limits();
  response->set_version(kTesseraVersion);
  response->set_fingerprint(serving_->model.fingerprint);
  response->set_device(serving_->model.device);
  response->set_max_context(limits.max_context);
  response->set_max_batch_tokens(limits.max_batch_tokens);
  response->set_max_running(limits.max_running);
  response->set_kv_pages(limits.num_pages);
  response->set_kv_page_tokens(limits.page_tokens);
  response->set_max_waiting(serving_->max_waiting);
  response->set_max_waiting_prompt_tokens(serving_->max_waiting_prompt_tokens);
  response->set_max_message_bytes(serving_->max_message_bytes);
  return FinishedWith(absl::OkStatus(), context);
}

}  // namespace tessera
