#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"
#include "scheduler/request.h"
#include "server/generation_stream.h"
#include "tessera/v1/generation.pb.h"

namespace tessera {

// A GenerateRequest that passed every check.
struct ParsedRequest {
  Request request;  // id, tenant, deadline and cache salt are the caller's to fill in
  TextOptions text;
  std::string echo_text;  // what the text of each output begins with; empty without `echo`
};

// Reads what clients send: tokenizes, applies the defaults and checks every range of
// docs/sampling.md, so that the layers below see only what they can run. Immutable; shared by
// threads.
class RequestParser {
 public:
  // *tokenizer outlives the parser.
  RequestParser(const Tokenizer* tokenizer, int max_context, size_t max_message_bytes,
                std::string served_model_name);

  // INVALID_ARGUMENT with the field, what was expected and what came; NOT_FOUND for another model's
  // name. `drawn_seed` is the seed of a request that brings none.
  absl::StatusOr<ParsedRequest> Parse(const v1::GenerateRequest& proto, uint64_t drawn_seed) const;

  // INVALID_ARGUMENT for a text that no prompt could hold.
  absl::StatusOr<std::vector<TokenId>> Tokenize(const v1::TokenizeRequest& proto) const;
  // The tokens' text, special tokens' too; bytes that are not UTF-8 become U+FFFD. INVALID_ARGUMENT
  // where that would not fit into a message.
  absl::StatusOr<std::string> Detokenize(const v1::DetokenizeRequest& proto) const;

 private:
  absl::Status ParsePrompt(const v1::GenerateRequest& proto, ParsedRequest* parsed) const;
  absl::Status ParseTextPrompt(const v1::GenerateRequest& proto, Request* request) const;
  absl::Status ParseTokenPrompt(const v1::TokenIds& proto, Request* request) const;
  absl::Status ParseEcho(const v1::GenerateRequest& proto, ParsedRequest* parsed) const;
  absl::Status CheckTextSize(const char* field, size_t num_bytes) const;
  absl::Status CheckPromptSize(size_t num_tokens) const;
  template <typename Tokens>
  absl::Status CheckTokens(const char* field, const Tokens& tokens) const;
  absl::Status ParseSampling(const v1::SamplingParams& proto, uint64_t drawn_seed,
                             SamplingParams* sampling) const;
  absl::Status ParseLogitBias(const v1::SamplingParams& proto, SamplingParams* sampling) const;
  absl::Status ParseStops(const v1::StopConditions& proto, ParsedRequest* parsed) const;
  absl::Status ParseLengths(const v1::StopConditions& proto, Request* request) const;
  absl::Status ParseCounts(const v1::GenerateRequest& proto, Request* request) const;
  bool IsToken(int64_t token) const { return token >= 0 && token < tokenizer_->vocab_size(); }
  absl::Status CheckToken(const std::string& field, int64_t token) const;
  std::string Text(const std::vector<TokenId>& tokens) const;

  const Tokenizer* const tokenizer_;
  const int max_context_;
  const size_t max_message_bytes_;
  const std::string served_model_name_;
  size_t max_token_bytes_ = 1;  // of the longest token: bounds how few tokens a text can have
};

}  // namespace tessera
