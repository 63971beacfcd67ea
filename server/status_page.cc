#include "server/status_page.h"

#include <chrono>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>

#include "server/version.h"

extern const char kStatusPageHtml[];  // server/status_page.html

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxSequences = 200;
constexpr std::chrono::seconds kPatience{3};  // a step may be long

const char* Name(SequencePhase phase) {
  switch (phase) {
    case SequencePhase::kWaiting:
      return "waiting";
    case SequencePhase::kPrefill:
      return "prefill";
    case SequencePhase::kDecode:
      return "decode";
    case SequencePhase::kParked:
      return "parked";
    case SequencePhase::kPreempted:
      return "preempted";
  }
  return "unknown";
}

const char* Name(WaitReason reason) {
  switch (reason) {
    case WaitReason::kNone:
      return "";
    case WaitReason::kTokenBudget:
      return "rows of a step";
    case WaitReason::kPages:
      return "pages";
    case WaitReason::kSlots:
      return "a slot";
    case WaitReason::kSharedPrefix:
      return "a prefix another computes";
    case WaitReason::kPriority:
      return "more urgent ones";
    case WaitReason::kFairness:
      return "its tenant's turn";
    case WaitReason::kSlowReader:
      return "its reader";
  }
  return "unknown";
}

Json Describe(const SequenceSnapshot& sequence) {
  return {{"state", Name(sequence.phase)},
          {"wait_reason", Name(sequence.wait_reason)},
          {"prompt_tokens", sequence.prompt_tokens},
          {"computed_tokens", sequence.computed_tokens},
          {"output_tokens", sequence.output_tokens},
          {"pages", sequence.num_pages},
          {"priority", sequence.priority},
          {"waited_seconds", static_cast<double>(sequence.waited) * 1e-9}};
}

Json Describe(const ServingContext& serving, const SchedulerSnapshot& snapshot) {
  const ExecutorLimits& limits = serving.engine->limits();
  const SchedulerStats& stats = snapshot.stats;
  Json json = {{"model", serving.model.name},
               {"fingerprint", serving.model.fingerprint},
               {"device", serving.model.device},
               {"version", kTesseraVersion},
               {"limits",
                {{"max_context", limits.max_context},
                 {"max_running", limits.max_running},
                 {"max_waiting", serving.max_waiting},
                 {"max_batch_tokens", limits.max_batch_tokens}}},
               {"step", snapshot.step},
               {"running", stats.num_running_sequences},
               {"waiting", stats.num_waiting_requests + stats.num_preempted_sequences},
               {"parked", stats.num_parked_sequences},
               {"preemptions", stats.num_preemptions},
               {"pages",
                {{"total", stats.num_pages},
                 {"used", stats.num_pages_used},
                 {"cached", stats.num_pages_cached}}},
               {"sequences", Json::array()}};
  for (const SequenceSnapshot& sequence : snapshot.sequences) {
    if (json["sequences"].size() == kMaxSequences) break;
    json["sequences"].push_back(Describe(sequence));
  }
  json["omitted"] = snapshot.sequences.size() - json["sequences"].size();
  return json;
}

}  // namespace

HttpReply StatusPage() {
  return {.content_type = "text/html; charset=utf-8", .body = kStatusPageHtml};
}

HttpReply StatusJson(const ServingContext& serving) {
  using Answer = std::shared_ptr<const SchedulerSnapshot>;
  // Shared, since the answer may come after we have given up.
  const auto answer = std::make_shared<std::promise<Answer>>();
  const absl::Status asked = serving.engine->RequestSnapshot(
      [answer](const Answer& snapshot) { answer->set_value(snapshot); });
  std::future<Answer> future = answer->get_future();
  if (!asked.ok() || future.wait_for(kPatience) != std::future_status::ready) {
    return {.status = 503, .body = "the engine does not answer\n"};
  }
  const Json json = Describe(serving, *future.get());
  return {.content_type = "application/json",
          .body = json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

}  // namespace tessera
