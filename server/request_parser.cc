#include "server/request_parser.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "model/utf8.h"
#include "server/status_details.h"

namespace tessera {
namespace {

constexpr int kMaxSequences = 64;
constexpr int kMaxLogprobs = 20;
constexpr int kMaxLogitBiases = 1024;
constexpr float kMaxLogitBias = 100.0f;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr int kMaxStopTokens = 64;
constexpr int kMaxPriority = 1'000'000;
constexpr size_t kMaxNameShown = 100;

std::string Show(float value) { return absl::StrFormat("%.9g", value); }

// Comparisons that NaN fails.
bool IsBetween(float value, float low, float high) { return value >= low && value <= high; }

struct FloatRange {
  const char* field;
  const char* expected;
  float low;
  float high;
  bool includes_low = true;
};

absl::Status ReadFloat(bool is_set, float value, const FloatRange& range, float* result) {
  if (!is_set) return absl::OkStatus();
  if (!IsBetween(value, range.low, range.high) || (!range.includes_low && value == range.low)) {
    return InvalidField(range.field, range.expected, Show(value));
  }
  *result = value;
  return absl::OkStatus();
}

absl::Status ReadCount(bool is_set, uint32_t value, const std::string& field, int low, int high,
                       int* result) {
  if (!is_set) return absl::OkStatus();
  if (value < static_cast<uint32_t>(low) || value > static_cast<uint32_t>(high)) {
    return InvalidField(field, absl::StrCat(low, " to ", high), absl::StrCat(value));
  }
  *result = static_cast<int>(value);
  return absl::OkStatus();
}

absl::Status CheckStopStrings(const v1::StopConditions& proto) {
  if (proto.stop_strings_size() > kMaxStopStrings) {
    return InvalidField("stop.stop_strings", absl::StrCat("at most ", kMaxStopStrings, " strings"),
                        absl::StrCat(proto.stop_strings_size()));
  }
  for (int i = 0; i < proto.stop_strings_size(); ++i) {
    const size_t size_bytes = proto.stop_strings(i).size();
    if (size_bytes < 1 || size_bytes > kMaxStopStringBytes) {
      return InvalidField(absl::StrCat("stop.stop_strings[", i, "]"),
                          absl::StrCat("1 to ", kMaxStopStringBytes, " bytes"),
                          absl::StrCat(size_bytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

void SortAndDeduplicate(std::vector<TokenId>* tokens) {
  std::sort(tokens->begin(), tokens->end());
  tokens->erase(std::unique(tokens->begin(), tokens->end()), tokens->end());
}

}  // namespace

RequestParser::RequestParser(const Tokenizer* tokenizer, int max_context, size_t max_message_bytes,
                             std::string served_model_name)
    : tokenizer_(tokenizer),
      max_context_(max_context),
      max_message_bytes_(max_message_bytes),
      served_model_name_(std::move(served_model_name)) {
  for (TokenId token = 0; token < tokenizer_->vocab_size(); ++token) {
    max_token_bytes_ = std::max(max_token_bytes_, tokenizer_->Bytes(token).size());
  }
}

absl::StatusOr<ParsedRequest> RequestParser::Parse(const v1::GenerateRequest& proto,
                                                   uint64_t drawn_seed) const {
  if (proto.has_model() && proto.model() != served_model_name_) {
    return absl::NotFoundError(absl::StrCat("model: expected \"", served_model_name_, "\", got \"",
                                            proto.model().substr(0, kMaxNameShown), "\""));
  }
  ParsedRequest parsed;
  RETURN_IF_ERROR(ParseSampling(proto.sampling(), drawn_seed, &parsed.request.sampling));
  RETURN_IF_ERROR(ParseCounts(proto, &parsed.request));
  RETURN_IF_ERROR(ParseStops(proto.stop(), &parsed));
  RETURN_IF_ERROR(ParsePrompt(proto, &parsed));
  RETURN_IF_ERROR(ParseLengths(proto.stop(), &parsed.request));
  parsed.text.min_tokens = parsed.request.min_tokens;
  return parsed;
}

absl::Status RequestParser::ParsePrompt(const v1::GenerateRequest& proto,
                                        ParsedRequest* parsed) const {
  Request* request = &parsed->request;
  if (proto.has_text()) {
    RETURN_IF_ERROR(ParseTextPrompt(proto, request));
  } else if (proto.has_token_ids()) {
    RETURN_IF_ERROR(ParseTokenPrompt(proto.token_ids(), request));
  }
  if (request->prompt.empty()) {
    return InvalidField("prompt", "text or token_ids of at least one token", "nothing");
  }
  RETURN_IF_ERROR(CheckPromptSize(request->prompt.size()));
  return proto.echo() ? ParseEcho(proto, parsed) : absl::OkStatus();
}

absl::Status RequestParser::ParseTextPrompt(const v1::GenerateRequest& proto,
                                            Request* request) const {
  if (proto.text().empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckTextSize("prompt", proto.text().size()));
  if (tokenizer_->adds_bos()) request->prompt.push_back(tokenizer_->bos_token());
  const std::vector<TokenId> tokens = tokenizer_->Encode(
      proto.text(), proto.parse_special() ? SpecialTokens::kParse : SpecialTokens::kPlainText);
  request->prompt.insert(request->prompt.end(), tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::Status RequestParser::ParseTokenPrompt(const v1::TokenIds& proto, Request* request) const {
  RETURN_IF_ERROR(CheckPromptSize(static_cast<size_t>(proto.ids_size())));
  RETURN_IF_ERROR(CheckTokens("token_ids.ids", proto.ids()));
  request->prompt.assign(proto.ids().begin(), proto.ids().end());
  return absl::OkStatus();
}

// Each of the n outputs begins with a copy, which is held until the answer is sent.
absl::Status RequestParser::ParseEcho(const v1::GenerateRequest& proto,
                                      ParsedRequest* parsed) const {
  parsed->echo_text = proto.has_text() ? proto.text() : Text(parsed->request.prompt);
  const size_t echoed = parsed->echo_text.size() * parsed->request.num_sequences;
  const size_t max_echoed = max_message_bytes_ / 8;
  if (echoed <= max_echoed) return absl::OkStatus();
  return InvalidField(
      "echo", absl::StrCat("at most ", max_echoed, " bytes of prompt in the n outputs together"),
      absl::StrCat(echoed, " bytes"));
}

// One token of the context is left for the answer.
absl::Status RequestParser::CheckPromptSize(size_t num_tokens) const {
  const int max_tokens = max_context_ - 1;
  if (num_tokens <= static_cast<size_t>(max_tokens)) return absl::OkStatus();
  return InvalidField("prompt", absl::StrCat("at most ", max_tokens, " tokens"),
                      absl::StrCat(num_tokens, " tokens"));
}

// Spares us tokenizing what cannot fit.
absl::Status RequestParser::CheckTextSize(const char* field, size_t num_bytes) const {
  if (num_bytes <= static_cast<size_t>(max_context_) * max_token_bytes_) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("at most ", max_context_ - 1, " tokens"),
                      absl::StrCat("a text of ", num_bytes, " bytes, which is at least ",
                                   num_bytes / max_token_bytes_, " tokens"));
}

absl::Status RequestParser::ParseSampling(const v1::SamplingParams& proto, uint64_t drawn_seed,
                                          SamplingParams* sampling) const {
  constexpr float kMaxFloat = std::numeric_limits<float>::max();
  constexpr FloatRange kTemperature = {"sampling.temperature", "a finite number >= 0", 0,
                                       kMaxFloat};
  constexpr FloatRange kTopP = {"sampling.top_p", "a number in (0, 1]", 0, 1, false};
  constexpr FloatRange kMinP = {"sampling.min_p", "a number in [0, 1]", 0, 1};
  constexpr FloatRange kRepetition = {"sampling.repetition_penalty", "a number in (0, 10]", 0, 10,
                                      false};
  constexpr FloatRange kFrequency = {"sampling.frequency_penalty", "a number in [-2, 2]", -2, 2};
  constexpr FloatRange kPresence = {"sampling.presence_penalty", "a number in [-2, 2]", -2, 2};

  RETURN_IF_ERROR(ReadFloat(proto.has_temperature(), proto.temperature(), kTemperature,
                            &sampling->temperature));
  RETURN_IF_ERROR(ReadFloat(proto.has_top_p(), proto.top_p(), kTopP, &sampling->top_p));
  RETURN_IF_ERROR(ReadFloat(proto.has_min_p(), proto.min_p(), kMinP, &sampling->min_p));
  RETURN_IF_ERROR(ReadFloat(proto.has_repetition_penalty(), proto.repetition_penalty(), kRepetition,
                            &sampling->repetition_penalty));
  RETURN_IF_ERROR(ReadFloat(proto.has_frequency_penalty(), proto.frequency_penalty(), kFrequency,
                            &sampling->frequency_penalty));
  RETURN_IF_ERROR(ReadFloat(proto.has_presence_penalty(), proto.presence_penalty(), kPresence,
                            &sampling->presence_penalty));
  if (proto.top_k() < -1)
    return InvalidField("sampling.top_k", ">= -1", absl::StrCat(proto.top_k()));
  sampling->top_k = proto.top_k();
  sampling->seed = proto.has_seed() ? proto.seed() : drawn_seed;
  return ParseLogitBias(proto, sampling);
}

absl::Status RequestParser::ParseLogitBias(const v1::SamplingParams& proto,
                                           SamplingParams* sampling) const {
  if (proto.logit_bias_size() > kMaxLogitBiases) {
    return InvalidField("sampling.logit_bias",
                        absl::StrCat("at most ", kMaxLogitBiases, " entries"),
                        absl::StrCat(proto.logit_bias_size()));
  }
  for (const auto& [token, bias] : proto.logit_bias()) {
    const std::string field = absl::StrCat("sampling.logit_bias[", token, "]");
    RETURN_IF_ERROR(CheckToken(field, token));
    if (!IsBetween(bias, -kMaxLogitBias, kMaxLogitBias)) {
      return InvalidField(field, "a number in [-100, 100]", Show(bias));
    }
    sampling->logit_bias.emplace_back(token, bias);
  }
  std::sort(sampling->logit_bias.begin(), sampling->logit_bias.end());
  return absl::OkStatus();
}

absl::Status RequestParser::ParseStops(const v1::StopConditions& proto,
                                       ParsedRequest* parsed) const {
  RETURN_IF_ERROR(CheckStopStrings(proto));
  parsed->text.stop_strings.assign(proto.stop_strings().begin(), proto.stop_strings().end());
  parsed->text.include_stop_string = proto.include_stop_string();

  if (proto.stop_token_ids_size() > kMaxStopTokens) {
    return InvalidField("stop.stop_token_ids", absl::StrCat("at most ", kMaxStopTokens, " tokens"),
                        absl::StrCat(proto.stop_token_ids_size()));
  }
  RETURN_IF_ERROR(CheckTokens("stop.stop_token_ids", proto.stop_token_ids()));
  Request* request = &parsed->request;
  request->stop_tokens.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  const std::span<const TokenId> end_tokens = tokenizer_->end_tokens();
  request->banned_before_min = request->stop_tokens;
  request->banned_before_min.insert(request->banned_before_min.end(), end_tokens.begin(),
                                    end_tokens.end());
  SortAndDeduplicate(&request->banned_before_min);
  if (!proto.ignore_eos()) request->stop_tokens = request->banned_before_min;
  SortAndDeduplicate(&request->stop_tokens);
  return absl::OkStatus();
}

absl::Status RequestParser::ParseLengths(const v1::StopConditions& proto, Request* request) const {
  const int room = max_context_ - static_cast<int>(request->prompt.size());
  RETURN_IF_ERROR(ReadCount(proto.has_max_tokens(), proto.max_tokens(), "stop.max_tokens", 1, room,
                            &request->max_tokens));
  const int max_tokens = proto.has_max_tokens() ? request->max_tokens : room;
  return ReadCount(proto.has_min_tokens(), proto.min_tokens(), "stop.min_tokens", 0, max_tokens,
                   &request->min_tokens);
}

absl::Status RequestParser::ParseCounts(const v1::GenerateRequest& proto, Request* request) const {
  RETURN_IF_ERROR(
      ReadCount(proto.has_n(), proto.n(), "n", 1, kMaxSequences, &request->num_sequences));
  RETURN_IF_ERROR(ReadCount(proto.has_logprobs(), proto.logprobs(), "logprobs", 0, kMaxLogprobs,
                            &request->num_logprobs));
  RETURN_IF_ERROR(ReadCount(proto.has_prompt_logprobs(), proto.prompt_logprobs(), "prompt_logprobs",
                            0, kMaxLogprobs, &request->num_prompt_logprobs));
  if (proto.priority() < -kMaxPriority || proto.priority() > kMaxPriority) {
    return InvalidField("priority", absl::StrCat(-kMaxPriority, " to ", kMaxPriority),
                        absl::StrCat(proto.priority()));
  }
  request->priority = proto.priority();
  return absl::OkStatus();
}

absl::Status RequestParser::CheckToken(const std::string& field, int64_t token) const {
  if (IsToken(token)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("a token id of 0 to ", tokenizer_->vocab_size() - 1),
                      absl::StrCat(token));
}

template <typename Tokens>
absl::Status RequestParser::CheckTokens(const char* field, const Tokens& tokens) const {
  for (int i = 0; i < tokens.size(); ++i) {
    if (IsToken(tokens[i])) continue;
    return CheckToken(absl::StrCat(field, "[", i, "]"), tokens[i]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> RequestParser::Tokenize(
    const v1::TokenizeRequest& proto) const {
  RETURN_IF_ERROR(CheckTextSize("text", proto.text().size()));
  return tokenizer_->Encode(
      proto.text(), proto.parse_special() ? SpecialTokens::kParse : SpecialTokens::kPlainText);
}

absl::StatusOr<std::string> RequestParser::Detokenize(const v1::DetokenizeRequest& proto) const {
  RETURN_IF_ERROR(CheckTokens("token_ids", proto.token_ids()));
  constexpr size_t kMaxGrowth = 3;  // a byte that is not UTF-8 becomes three
  const size_t max_bytes = max_message_bytes_ / (kMaxGrowth + 1);
  size_t num_bytes = 0;
  for (const TokenId token : proto.token_ids()) num_bytes += tokenizer_->Bytes(token).size();
  if (num_bytes > max_bytes) {
    return InvalidField("token_ids", absl::StrCat("tokens of at most ", max_bytes, " bytes"),
                        absl::StrCat(num_bytes, " bytes"));
  }
  return Text({proto.token_ids().begin(), proto.token_ids().end()});
}

std::string RequestParser::Text(const std::vector<TokenId>& tokens) const {
  Utf8Stream utf8;
  std::string text;
  for (const TokenId token : tokens) text += utf8.Append(tokenizer_->Bytes(token));
  return text + utf8.Flush();
}

}  // namespace tessera
