#include "server/response_builder.h"

#include <string>

namespace tessera {
namespace {

// Between two times of a report; 0 where either stage was not reached.
double SecondsBetween(TimeNs from, TimeNs to) {
  return from == 0 || to == 0 ? 0.0 : static_cast<double>(to - from) * 1e-9;
}

void FillReport(const SequenceReport& report, v1::Output* output) {
  v1::Usage* usage = output->mutable_usage();
  usage->set_prompt_tokens(report.prompt_tokens);
  usage->set_cached_tokens(report.cached_tokens);
  usage->set_completion_tokens(report.completion_tokens);

  v1::Timings* timings = output->mutable_timings();
  timings->set_queue_seconds(SecondsBetween(report.arrived, report.first_scheduled));
  timings->set_prefill_seconds(SecondsBetween(report.first_scheduled, report.first_token));
  timings->set_first_token_seconds(SecondsBetween(report.arrived, report.first_token));
  timings->set_decode_seconds(SecondsBetween(report.first_token, report.finished));
  timings->set_preemptions(report.num_preemptions);
  timings->set_recomputed_tokens(report.recomputed_tokens);
}

}  // namespace

v1::FinishReason ToProto(FinishReason finish) {
  switch (finish) {
    case FinishReason::kStopToken:
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    default:
      return v1::FINISH_REASON_UNSPECIFIED;  // the call ends with a status instead
  }
}

void FillOutput(const Delta& delta, const Tokenizer& tokenizer, v1::Output* output) {
  output->set_index(delta.index);
  output->set_text(delta.text);
  output->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (const std::vector<ScoredToken>& entries : delta.logprobs) {
    FillLogprobs(entries, tokenizer, output->add_logprobs());
  }
  if (delta.finish == FinishReason::kNone) return;
  output->set_finish_reason(ToProto(delta.finish));
  if (delta.finish == FinishReason::kStopString) output->set_stop_string(delta.stop_string);
  if (delta.finish == FinishReason::kStopToken) output->set_stop_token_id(delta.stop_token);
  FillReport(delta.report, output);
}

void FillLogprobs(const std::vector<ScoredToken>& entries, const Tokenizer& tokenizer,
                  v1::TokenLogprobs* logprobs) {
  for (const ScoredToken& scored : entries) {
    v1::TokenLogprob* entry = logprobs->add_entries();
    entry->set_token_id(scored.token);
    entry->set_logprob(scored.logprob);
    // A model's table may have more rows than its tokenizer has tokens.
    if (scored.token < tokenizer.vocab_size()) {
      entry->set_token(std::string(tokenizer.Bytes(scored.token)));
    }
  }
}

void MergeResponse(v1::GenerateResponse&& later, v1::GenerateResponse* whole) {
  for (v1::Output& output : *later.mutable_outputs()) {
    v1::Output* merged = whole->mutable_outputs(static_cast<int>(output.index()));
    merged->mutable_text()->append(output.text());
    output.clear_text();  // MergeFrom would replace what is there
    merged->MergeFrom(output);
  }
  for (v1::TokenLogprobs& entry : *later.mutable_prompt_logprobs()) {
    *whole->add_prompt_logprobs() = std::move(entry);
  }
}

}  // namespace tessera
