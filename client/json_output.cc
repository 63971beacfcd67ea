#include "client/json_output.h"

#include <cstdio>
#include <cstdlib>

namespace tessera {
namespace {

const char* FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
      return "abort";
    default:
      return "unspecified";
  }
}

// A token's bytes need not be whole UTF-8 characters: parts of one become U+FFFD.
std::string PrintableText(const std::string& bytes) {
  const Json text = bytes;
  const std::string quoted = text.dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(quoted, nullptr, false).get<std::string>();
}

Json LogprobsToJson(const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& tokens) {
  Json rows = Json::array();
  for (const v1::TokenLogprobs& token : tokens) {
    Json row = Json::array();
    for (const v1::TokenLogprob& entry : token.entries()) {
      row.push_back({{"id", entry.token_id()},
                     {"logprob", NineDigits(entry.logprob())},
                     {"text", PrintableText(entry.token())}});
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Json TimingToJson(const v1::Timings& timings) {
  return {{"queue_seconds", timings.queue_seconds()},
          {"prefill_seconds", timings.prefill_seconds()},
          {"first_token_seconds", timings.first_token_seconds()},
          {"decode_seconds", timings.decode_seconds()},
          {"preemptions", timings.preemptions()},
          {"recomputed_tokens", timings.recomputed_tokens()}};
}

Json OutputToJson(const v1::Output& output) {
  Json json;
  json["text"] = output.text();
  json["token_ids"] = std::vector<int32_t>(output.token_ids().begin(), output.token_ids().end());
  json["finish_reason"] = FinishReasonName(output.finish_reason());
  if (output.has_stop_string()) json["stop_string"] = output.stop_string();
  if (output.has_stop_token_id()) json["stop_token_id"] = output.stop_token_id();
  json["seed"] = output.seed();
  json["usage"] = {{"prompt_tokens", output.usage().prompt_tokens()},
                   {"cached_tokens", output.usage().cached_tokens()},
                   {"completion_tokens", output.usage().completion_tokens()}};
  json["timing"] = TimingToJson(output.timings());
  if (output.logprobs_size() > 0) json["logprobs"] = LogprobsToJson(output.logprobs());
  return json;
}

}  // namespace

double NineDigits(float value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
  return std::strtod(digits, nullptr);
}

Json GenerationToJson(const v1::GenerateResponse& response) {
  Json json;
  if (response.outputs_size() == 1) {
    json = OutputToJson(response.outputs(0));
  } else {
    json["outputs"] = Json::array();
    for (const v1::Output& output : response.outputs()) {
      json["outputs"].push_back(OutputToJson(output));
    }
  }
  json["fingerprint"] = response.fingerprint();
  json["model"] = response.model();
  json["request_id"] = response.request_id();
  if (response.prompt_logprobs_size() > 0) {
    json["prompt_logprobs"] = LogprobsToJson(response.prompt_logprobs());
  }
  return json;
}

Json ExplanationToJson(const v1::ExplainResponse& response) {
  Json json = {{"step", response.step()},
               {"age_seconds", response.age_seconds()},
               {"num_waiting", response.num_waiting()},
               {"num_running", response.num_running()},
               {"pages_total", response.pages_total()},
               {"pages_used", response.pages_used()},
               {"pages_cached", response.pages_cached()},
               {"preemptions", response.preemptions()},
               {"sequences", Json::array()}};
  for (const v1::SequenceState& sequence : response.sequences()) {
    json["sequences"].push_back(
        {{"request_id", sequence.request_id()},
         {"index", sequence.index()},
         {"state", v1::SequenceState::State_Name(sequence.state())},
         {"wait_reason", v1::SequenceState::WaitReason_Name(sequence.wait_reason())},
         {"prompt_tokens", sequence.prompt_tokens()},
         {"computed_tokens", sequence.computed_tokens()},
         {"output_tokens", sequence.output_tokens()},
         {"pages", sequence.pages()},
         {"preemptions", sequence.preemptions()},
         {"priority", sequence.priority()},
         {"tenant", sequence.tenant()},
         {"waited_seconds", sequence.waited_seconds()},
         {"position_in_queue", sequence.position_in_queue()}});
  }
  return json;
}

}  // namespace tessera
